"""The chassis every AIOS service stands on: mechanism only, no decision about any call."""
