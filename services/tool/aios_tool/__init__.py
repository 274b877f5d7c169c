"""Tool manager: any tool, validated, bounded, never in another's way."""
