"""Talk to a Parley service: runs that survive lost connections.

    async with ParleyClient("http://localhost:8000") as client:
        async for event in client.chat("What is 15 + 27?"):
            ...

It imports nothing of the service.
"""

from parley_client.answer import Answer
from parley_client.client import ParleyClient, Status
from parley_client.errors import ParleyError
from parley_client.events import (
    AgentUpdated,
    ChatChunk,
    ChatComplete,
    ChatStart,
    CompletedCall,
    Event,
    FailedCall,
    ProgressingCall,
    QueuedCall,
    ReasoningChunk,
    RequestedCall,
    Reset,
    RunError,
    RunProgress,
    StartedCall,
    ToolCallComplete,
    ToolCallError,
    ToolCallProgress,
    ToolCallQueued,
    ToolCallStart,
    UnknownEvent,
    Usage,
)
from parley_client.history import Exchange, exchanges
from parley_client.pace import Timings
from parley_client.run import Run
from parley_client.views import (
    Agent,
    Conversation,
    ConversationPage,
    Health,
    Message,
    SearchHit,
    Tool,
    Waiting,
)

__all__ = [
    "Agent",
    "AgentUpdated",
    "Answer",
    "ChatChunk",
    "ChatComplete",
    "ChatStart",
    "CompletedCall",
    "Conversation",
    "ConversationPage",
    "Event",
    "Exchange",
    "FailedCall",
    "Health",
    "Message",
    "ParleyClient",
    "ParleyError",
    "ProgressingCall",
    "QueuedCall",
    "ReasoningChunk",
    "RequestedCall",
    "Reset",
    "Run",
    "RunError",
    "RunProgress",
    "SearchHit",
    "StartedCall",
    "Status",
    "Timings",
    "Tool",
    "ToolCallComplete",
    "ToolCallError",
    "ToolCallProgress",
    "ToolCallQueued",
    "ToolCallStart",
    "UnknownEvent",
    "Usage",
    "Waiting",
    "exchanges",
]
