"""The environment, read once into one frozen object.

Every setting is an environment variable, or a line in `.env`, with the field's name in capitals;
`.env.example` lists them with their defaults, and a test keeps the two alike. An empty value
counts as absent.

This module imports nothing of the project.
"""

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Names = Annotated[tuple[str, ...], NoDecode]


class BadSettings(Exception):
    """The environment holds a value that cannot be used; the text is one line for a person."""


class Settings(BaseSettings):
    """All settings. Durations are seconds, sizes bytes, unless the name says otherwise."""

    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        frozen=True,
        env_ignore_empty=True,
        hide_input_in_errors=True,
    )

    # The model
    openai_api_key: SecretStr | None = None
    openai_base_url: str | None = Field(None, pattern=r"^https?://[^\s]+$")
    openai_model: str | None = None
    openai_dialect: str = ""
    openai_temperature: float | None = Field(None, ge=0, le=2)
    openai_max_tokens: int | None = Field(None, ge=1)
    openai_max_retries: int = Field(3, ge=0, le=10)
    openai_timeout: float = Field(60.0, gt=0)
    friendli_token: SecretStr | None = None
    anthropic_api_key: SecretStr | None = None
    anthropic_base_url: str | None = Field(None, pattern=r"^https?://[^\s]+$")
    anthropic_model: str = Field("claude-sonnet-5-5", min_length=1)
    allowed_models: Names = ()
    system_prompt: str = Field("You are a helpful assistant.", min_length=1)
    demo_tokens_per_second: float = Field(40.0, ge=0)

    # Where conversations, agents and runs are kept
    database_url: SecretStr | None = None
    session_db_path: Path | None = None
    storage_timeout: float = Field(5.0, gt=0)
    enable_sessions: bool = True
    conversation_ttl: float | None = Field(None, gt=0)

    # What is remembered of users across conversations
    memory_enabled: bool = True
    memory_recall_timeout: float | None = Field(None, gt=0)
    memory_recall_limit: int = Field(5, ge=1, le=50)
    memory_queue_size: int = Field(10_000, ge=1)
    memory_embedder: Literal["wordllama", "openai"] = "wordllama"
    memory_embedding_model: str = Field("text-embedding-3-small", min_length=1)
    mem0_api_key: SecretStr | None = None
    mem0_base_url: str | None = Field(None, pattern=r"^https?://[^\s]+$")

    # The service
    app_name: str = Field("Parley", min_length=1)
    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8000, ge=0, le=65535)
    data_dir: Path = Path("data")
    log_level: Literal["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"] = "INFO"
    debug: bool = False
    shutdown_grace: float = Field(10.0, ge=0)

    # Who may call from a browser
    cors_origins: Names = ()
    websocket_origins: Names = ()
    allowed_hosts: Names = ()

    # The protocol of /chat/stream for requests that name none
    chat_stream_protocol: Literal["events", "tokens", "chunks", "agents-sdk", "openai"] = "events"

    # Limits
    max_body_bytes: int = Field(1_048_576, ge=1024)
    max_message_chars: int = Field(32_000, ge=1, le=100_000)
    websocket_max_bytes: int = Field(65_536, ge=1024)
    websocket_max_chats: int = Field(32, ge=1)
    max_active_runs: int = Field(1000, ge=1)
    max_queued_messages: int = Field(16, ge=0)
    max_agents: int = Field(1000, ge=1)
    history_messages: int = Field(20, ge=1)
    history_tokens: int = Field(32_000, ge=100)
    run_timeout: float = Field(600.0, gt=0)
    run_ttl: float = Field(86_400.0, gt=0)
    max_runs: int = Field(10_000, ge=1)
    max_run_bytes: int = Field(536_870_912, ge=4_194_304)
    run_log_ttl: float = Field(600.0, gt=0)
    run_log_max_events: int = Field(200_000, ge=1000)
    slow_reader_timeout: float = Field(30.0, gt=0)
    heartbeat_interval: float = Field(15.0, gt=0)
    tool_workers: int = Field(256, ge=1)

    # Addresses for the tools
    weather_geocoding_url: str = "https://geocoding-api.open-meteo.com"
    weather_forecast_url: str = "https://api.open-meteo.com"
    search_backend: str = "auto"
    search_url: str | None = None
    stock_url: str | None = None

    @field_validator(
        "allowed_models", "cors_origins", "websocket_origins", "allowed_hosts", mode="before"
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @property
    def recall_timeout(self) -> float:
        """Seconds that an answer waits for memories; over a network one question takes longer."""
        is_far = self.mem0_api_key is not None or self.memory_embedder == "openai"
        return self.memory_recall_timeout or (1.5 if is_far else 0.15)

    @property
    def storage_url(self) -> str:
        """The database: `DATABASE_URL`, or else a file of SQLite."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        path = self.session_db_path or self.data_dir / "parley.db"
        return f"sqlite:///{path}"

    @property
    def listens_on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def load_settings(**overrides: Any) -> Settings:
    """Read the environment and `.env`; `overrides`, by field name, win over both.

    Raises `BadSettings` with one line that names the variable, and never its value.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']).upper()}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)
        )
        raise BadSettings(f"Bad settings: {faults}. See .env.example.") from None
