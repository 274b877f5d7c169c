"""The system-call table: each operation with its request, result, default durability and whether it streams."""

from dataclasses import dataclass

from aios_proto.headers import Durability
from aios_proto.messages import access, context, llm, memory, scheduler, storage, syscall, tool
from aios_proto.messages.base import Body, Empty, Result


@dataclass(frozen=True, slots=True)
class Operation:
    """One entry of the system-call table.

    Attributes:
        manager: the manager that serves it.
        name: dotted, such as `pool.create`.
        request: model of the body; an empty body counts as `{}`.
        result: model of the `result` of the `done` frame.
        durability: what holds unless the call says otherwise. Only model calls may be durable: the other managers
            store what they write before they answer.
        streams: whether `delta` frames may come before `done`.
    """

    manager: str
    name: str
    request: type[Body]
    result: type[Result] | type[Empty]
    durability: Durability = "volatile"
    streams: bool = False

    @property
    def full_name(self) -> str:
        """Manager and name, such as `llm.chat`."""
        return f"{self.manager}.{self.name}"


_ALL = (
    Operation("llm", "chat", llm.ChatRequest, llm.ChatResult, "durable", streams=True),
    Operation("llm", "complete", llm.CompleteRequest, llm.CompleteResult, "durable", streams=True),
    Operation("llm", "embed", llm.EmbedRequest, llm.EmbedResult),
    Operation("llm", "tokenize", llm.TokenizeRequest, llm.TokenizeResult),
    Operation("llm", "models", Empty, llm.ModelsResult),
    Operation("syscall", "cancel", syscall.CancelCallRequest, syscall.CancelResult),
    Operation("syscall", "attach", syscall.AttachRequest, Empty, streams=True),
    Operation("syscall", "list", syscall.ListRequest, syscall.ListResult),
    Operation("scheduler", "state", Empty, scheduler.StateResult),
    Operation("scheduler", "drain", scheduler.DrainRequest, scheduler.WorkerInfo),
    Operation("scheduler", "policy", scheduler.PolicyRequest, scheduler.PolicyResult),
    Operation("access", "whoami", Empty, access.WhoamiResult),
    Operation("access", "agent.create", access.AgentCreateRequest, access.AgentCredential),
    Operation("access", "agent.list", Empty, access.AgentListResult),
    Operation("access", "agent.rotate", access.AgentRef, access.AgentCredential),
    Operation("access", "agent.revoke", access.AgentRef, access.AgentInfo),
    Operation("access", "approvals", access.ApprovalListRequest, access.ApprovalListResult),
    Operation("access", "approve", access.ApprovalDecision, access.ApprovalInfo),
    Operation("access", "deny", access.ApprovalDecision, access.ApprovalInfo),
    Operation("access", "policy.put", access.PolicyPutRequest, access.PolicyInfo),
    Operation("access", "policy.get", access.PolicyRef, access.PolicyDocumentResult),
    Operation("access", "policy.list", access.TenantChoice, access.PolicyListResult),
    Operation("access", "policy.check", access.PolicyCheckRequest, access.PolicyCheckResult),
    Operation("access", "quota.set", access.QuotaSetRequest, access.QuotaInfo),
    Operation("access", "quota.show", access.TenantChoice, access.QuotaShowResult),
    Operation("access", "tenant.create", access.TenantCreateRequest, access.AgentCredential),
    Operation("access", "tenant.list", Empty, access.TenantListResult),
    Operation("access", "tenant.delete", access.TenantRef, access.TenantInfo),
    Operation("access", "audit.verify", access.AuditVerifyRequest, access.AuditVerifyResult),
    Operation("access", "audit.export", access.AuditExportRequest, access.AuditExportResult),
    Operation("context", "open", context.OpenRequest, context.ContextInfo),
    Operation("context", "append", context.AppendRequest, context.ContextInfo),
    Operation("context", "get", context.GetRequest, context.ContextResult),
    Operation("context", "list", Empty, context.ContextListResult),
    Operation("context", "fork", context.ForkRequest, context.ContextInfo),
    Operation("context", "snapshot", context.SnapshotRequest, context.SnapshotInfo),
    Operation("context", "restore", context.RestoreRequest, context.ContextInfo),
    Operation("context", "compress", context.CompressRequest, context.CompressResult),
    Operation("context", "close", context.ContextRef, context.ContextInfo),
    Operation("context", "pin", context.PinRequest, context.ContextInfo),
    Operation("context", "grant", context.GrantRequest, context.ContextInfo),
    Operation("context", "discard", context.SnapshotRef, context.SnapshotInfo),
    Operation("context", "window", context.WindowRequest, context.WindowResult),
    Operation("context", "record", context.RecordRequest, context.ContextInfo),
    Operation("memory", "add", memory.AddRequest, memory.MemoryIdResult),
    Operation("memory", "get", memory.MemoryRef, memory.Memory),
    Operation("memory", "update", memory.UpdateRequest, memory.MemoryIdResult),
    Operation("memory", "remove", memory.RemoveRequest, memory.MemoryIdResult),
    Operation("memory", "search", memory.SearchRequest, memory.MemoriesResult),
    Operation("memory", "list", memory.ListRequest, memory.MemoriesResult),
    Operation("memory", "inject", memory.InjectRequest, memory.InjectResult),
    Operation("memory", "forget", memory.ForgetRequest, memory.ForgetResult),
    Operation("memory", "grant", memory.GrantRequest, memory.GrantsResult),
    Operation("memory", "revoke", memory.GrantRequest, memory.GrantsResult),
    Operation("memory", "usage", memory.UsageRequest, memory.UsageResult),
    Operation("memory", "pool.create", memory.PoolCreateRequest, memory.PoolInfo),
    Operation("memory", "pool.grant", memory.PoolGrantRequest, memory.PoolInfo),
    Operation("memory", "pool.revoke", memory.PoolGrantRequest, memory.PoolInfo),
    Operation("memory", "pool.list", Empty, memory.PoolsResult),
    Operation("storage", "write", storage.WriteRequest, storage.FileInfo),
    Operation("storage", "upload", storage.UploadRequest, storage.UploadResult),
    Operation("storage", "read", storage.ReadRequest, storage.ReadResult),
    Operation("storage", "list", storage.ListRequest, storage.FilesResult),
    Operation("storage", "delete", storage.DeleteRequest, storage.FileInfo),
    Operation("storage", "move", storage.MoveRequest, storage.FileInfo),
    Operation("storage", "versions", storage.PathRequest, storage.FilesResult),
    Operation("storage", "rollback", storage.RollbackRequest, storage.FileInfo),
    Operation("storage", "search", storage.SearchRequest, storage.FilesResult),
    Operation("storage", "share", storage.ShareRequest, storage.SharesResult),
    Operation("storage", "shares", storage.SharesRequest, storage.SharesResult),
    Operation("storage", "mount", storage.MountRequest, storage.MountsResult),
    Operation("storage", "unmount", storage.UnmountRequest, storage.MountsResult),
    Operation("storage", "interactions", storage.InteractionsRequest, storage.InteractionsResult),
    Operation("storage", "keys", storage.TenantRequest, storage.KeysResult),
    Operation("storage", "rotate", storage.TenantRequest, storage.KeysResult),
    Operation("storage", "shred", storage.ShredRequest, storage.KeysResult),
    Operation("tool", "register", tool.RegisterRequest, tool.ToolInfo),
    Operation("tool", "unregister", tool.UnregisterRequest, tool.ToolInfo),
    Operation("tool", "list", Empty, tool.ToolsResult),
    Operation("tool", "call", tool.ToolCallRequest, tool.ToolCallResult, streams=True),
    Operation("tool", "cancel", syscall.CancelRequest, syscall.CancelResult),
    Operation("tool", "result", tool.ToolResultRequest, tool.ToolResultTaken),
)

OPERATIONS: dict[tuple[str, str], Operation] = {(op.manager, op.name): op for op in _ALL}
MANAGERS: frozenset[str] = frozenset(op.manager for op in _ALL)
