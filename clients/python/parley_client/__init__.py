"""Talk to a Parley service: runs that survive lost connections.

    async with ParleyClient("http://localhost:8000") as client:
        async for event in client.chat("What is 15 + 27?"):
            ...

It imports nothing of the service.
"""

from parley_client.answer import Answer as Answer
from parley_client.client import ParleyClient as ParleyClient
from parley_client.client import Status as Status
from parley_client.errors import ParleyError as ParleyError
from parley_client.events import AgentUpdated as AgentUpdated
from parley_client.events import ChatChunk as ChatChunk
from parley_client.events import ChatComplete as ChatComplete
from parley_client.events import ChatStart as ChatStart
from parley_client.events import CompletedCall as CompletedCall
from parley_client.events import Event as Event
from parley_client.events import FailedCall as FailedCall
from parley_client.events import ProgressingCall as ProgressingCall
from parley_client.events import QueuedCall as QueuedCall
from parley_client.events import ReasoningChunk as ReasoningChunk
from parley_client.events import RequestedCall as RequestedCall
from parley_client.events import Reset as Reset
from parley_client.events import RunError as RunError
from parley_client.events import RunProgress as RunProgress
from parley_client.events import StartedCall as StartedCall
from parley_client.events import ToolCallComplete as ToolCallComplete
from parley_client.events import ToolCallError as ToolCallError
from parley_client.events import ToolCallProgress as ToolCallProgress
from parley_client.events import ToolCallQueued as ToolCallQueued
from parley_client.events import ToolCallStart as ToolCallStart
from parley_client.events import UnknownEvent as UnknownEvent
from parley_client.events import Usage as Usage
from parley_client.history import Exchange as Exchange
from parley_client.history import exchanges as exchanges
from parley_client.pace import Timings as Timings
from parley_client.run import Run as Run
from parley_client.views import Agent as Agent
from parley_client.views import Conversation as Conversation
from parley_client.views import ConversationPage as ConversationPage
from parley_client.views import Health as Health
from parley_client.views import Message as Message
from parley_client.views import SearchHit as SearchHit
from parley_client.views import Tool as Tool
from parley_client.views import Waiting as Waiting
