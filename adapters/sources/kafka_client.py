"""How this program connects to Kafka: typed TLS and SASL settings, and errors that name the real cause."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from kafka import errors as kafka_errors
from pydantic import BaseModel, ConfigDict, Field

from bridge.config.secrets import SecretRef
from bridge.errors import BridgeError, Incorrect, Unavailable


class KafkaTls(BaseModel):
    """TLS towards the brokers; files are PEM."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    ca_file: Path | None = Field(
        default=None, description="Certificates that the brokers' must chain to; default: the system's."
    )
    certificate_file: Path | None = Field(default=None, description="Own certificate, for mutual TLS.")
    key_file: Path | None = Field(default=None, description="Private key of the own certificate.")
    key_password: SecretRef | None = Field(default=None, description="Password of the private key.")
    check_hostname: bool = Field(
        default=True, description="Whether the broker's certificate must name the host connected to."
    )


class KafkaSasl(BaseModel):
    """SASL towards the brokers."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(description="SASL mechanism.")
    username: str = Field(description="Name of the principal.")
    password: SecretRef = Field(description="Its password, by reference.")


class KafkaConnection(BaseModel):
    """A Kafka cluster and how to authenticate to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bootstrap_servers: tuple[str, ...] = Field(
        min_length=1, description="host:port of some brokers.", examples=[["kafka-0:9093"]]
    )
    tls: KafkaTls | None = Field(default=None, description="TLS; absent = plain text.")
    sasl: KafkaSasl | None = Field(default=None, description="SASL; absent = none.")
    connect_timeout_seconds: float = Field(
        default=10, gt=0, le=300, description="How long to look for a broker at start."
    )

    def client_arguments(self) -> dict[str, Any]:
        """Keyword arguments that every kafka-python client takes. Resolves the secrets; keep the answer out of logs."""
        protocol = f"SASL_{'SSL' if self.tls else 'PLAINTEXT'}" if self.sasl else ("SSL" if self.tls else "PLAINTEXT")
        arguments: dict[str, Any] = {
            "bootstrap_servers": list(self.bootstrap_servers),
            "security_protocol": protocol,
            "bootstrap_timeout_ms": int(self.connect_timeout_seconds * 1000),
            "allow_auto_create_topics": False,
            "metrics_enabled": False,
        }
        if self.tls:
            arguments |= {
                "ssl_cafile": str(self.tls.ca_file) if self.tls.ca_file else None,
                "ssl_certfile": str(self.tls.certificate_file) if self.tls.certificate_file else None,
                "ssl_keyfile": str(self.tls.key_file) if self.tls.key_file else None,
                "ssl_password": self.tls.key_password.resolve() if self.tls.key_password else None,
                "ssl_check_hostname": self.tls.check_hostname,
            }
        if self.sasl:
            arguments |= {
                "sasl_mechanism": self.sasl.mechanism,
                "sasl_plain_username": self.sasl.username,
                "sasl_plain_password": self.sasl.password.resolve(),
            }
        return arguments


_ENDING_SECONDS = 2.0


def let_go(producer: Any, timeout_seconds: float) -> None:
    """Closes a producer; whatever has no acknowledgement after ``timeout_seconds`` fails and is not sent any more.

    ``KafkaProducer.close`` alone gives up where messages still wait, and leaves its thread to send them whenever it can.
    """
    try:
        producer.close(timeout=timeout_seconds)
    except kafka_errors.KafkaError:
        producer._sender.force_close()  # noqa: SLF001 - the public way there begins with waiting for the messages
        with suppress(kafka_errors.KafkaError):
            producer.close(timeout=_ENDING_SECONDS)


# kafka-python reports every failed start as "Unable to bootstrap"; the cause is only in the log of these loggers.
_CAUSE_LOGGERS = ("kafka.net.manager", "kafka.net.connection")
_CAUSES = (
    (
        "SaslAuthenticationFailed",
        "kafka-credentials-refused",
        "the brokers refused the user name or password",
        "Check sasl.username and sasl.password.",
    ),
    (
        "UnsupportedSaslMechanism",
        "kafka-mechanism-refused",
        "the brokers do not offer this SASL mechanism",
        "Check sasl.mechanism.",
    ),
    (
        "SaslHandshake failed",
        "kafka-mechanism-refused",
        "the brokers do not offer this SASL mechanism",
        "Check sasl.mechanism.",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "kafka-certificate-untrusted",
        "a broker's certificate is not trusted",
        "Check tls.ca_file.",
    ),
    (
        "certificate required",
        "kafka-certificate-required",
        "the brokers demand a client certificate",
        "Set tls.certificate_file and tls.key_file.",
    ),
    ("WRONG_VERSION_NUMBER", "kafka-not-tls", "the listener does not speak TLS", "Remove tls, or use the TLS port."),
    ("ECONNREFUSED", "kafka-unreachable", "nothing listens at the bootstrap address", "Check bootstrap_servers."),
    ("Name or service not known", "kafka-unreachable", "a bootstrap host name is unknown", "Check bootstrap_servers."),
)


class _CauseHandler(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@contextmanager
def explained(action: str) -> Iterator[None]:
    """Turns kafka-python's errors into closed ones that name the real cause.

    Raises:
        Unavailable: brokers out of reach or refusing; ``action`` says what was tried.
        Incorrect: ``kafka-configuration``, when the client refuses its settings.
    """
    handler = _CauseHandler()
    loggers = [logging.getLogger(name) for name in _CAUSE_LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    except (kafka_errors.KafkaError, OSError, ValueError) as error:
        raise closed_error(error, action, handler.texts) from error
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def closed_error(error: Exception, action: str, logged: list[str] | None = None) -> BridgeError:
    """The closed error for a kafka-python error; ``logged`` is what its network loggers said meanwhile."""
    said = "\n".join([*(logged or []), str(error)])
    for sign, code, cause, remedy in _CAUSES:
        if sign in said:
            return Unavailable(code, f"Could not {action}: {cause}.", remedy=remedy)
    name = type(error).__name__
    if isinstance(error, ValueError | kafka_errors.KafkaConfigurationError | FileNotFoundError):
        return Incorrect(
            "kafka-configuration",
            f"Could not {action}: the client refused its settings ({name}).",
            remedy="Check the Kafka settings.",
        )
    return Unavailable("kafka-unavailable", f"Could not {action} ({name}).", remedy="Check that the brokers are up.")
