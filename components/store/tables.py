"""The tables as queries see them. Migrations make them, with constraints and comments; a test keeps the two alike."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ARRAY,
    REAL,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Identity,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from components.records import IMAGE_STATISTICS

METADATA = MetaData()
MOMENT = DateTime(timezone=True)
TEXTS = ARRAY(Text)
ESTIMATED_RATES = ("precision", "recall", "false_positive", "false_negative")

Kind = type[TypeEngine[Any]] | TypeEngine[Any]


def _has(name: str, kind: Kind) -> Column[Any]:
    return Column(name, kind, nullable=False)


def _may(name: str, kind: Kind) -> Column[Any]:
    return Column(name, kind)


def _key(name: str, kind: Kind) -> Column[Any]:
    return Column(name, kind, primary_key=True, autoincrement=False)


def _serial(name: str, kind: Kind = BigInteger) -> Column[Any]:
    return Column(name, kind, Identity(always=True), primary_key=True)


class_list = Table(
    "class_list",
    METADATA,
    _serial("id", Integer),
    _has("classes", TEXTS),
    _has("digest", Text),
    _has("created_at", MOMENT),
    _has("several", Boolean),
)

model_version = Table(
    "model_version",
    METADATA,
    _key("version", Integer),
    _has("run_id", Text),
    _has("dataset_version", Text),
    _has("git_commit", Text),
    _has("class_list_id", Integer),
    _has("artifact_sha256", Text),
    _has("preprocess_sha256", Text),
    _has("state", Text),
    _has("created_at", MOMENT),
    _has("metrics", JSONB),
)

champion = Table("champion", METADATA, _key("only_row", Boolean), _has("version", Integer), _has("since", MOMENT))

batch = Table(
    "batch",
    METADATA,
    _key("id", Text),
    Column("number", BigInteger, Identity(always=True), nullable=False),
    _has("content_sha256", Text),
    _has("source", Text),
    _has("model_version", Integer),
    _has("class_list_id", Integer),
    _has("items", Integer),
    _has("scored_at", MOMENT),
    _has("month", Date),
    _has("state", Text),
    _has("rows", BigInteger),
    _has("rolled_up_rows", BigInteger),
    _has("opened_at", MOMENT),
    _may("closed_at", MOMENT),
)

image_shard = Table("image_shard", METADATA, _serial("id", Integer), _has("name", Text))

prediction = Table(
    "prediction",
    METADATA,
    _key("month", Date),
    _key("batch_number", BigInteger),
    _key("item_no", Integer),
    _key("model_version", Integer),
    _has("predicted", SmallInteger),
    _has("conf_bin", SmallInteger),
    _has("u_octave", SmallInteger),
    _has("shadow", Boolean),
    _has("needs_review", Boolean),
    _has("u", Double),
    _has("shard_id", Integer),
    _has("shard_row", Integer),
    _may("second_class", SmallInteger),
    _may("third_class", SmallInteger),
    _has("confidence", REAL),
    _may("second_confidence", REAL),
    _may("third_confidence", REAL),
    _has("ood_score", REAL),
    _has("latency_ms", REAL),
    *(_may(name, REAL) for name in IMAGE_STATISTICS),
    _has("image_id", Text),
    _has("name", Text),
    _has("probabilities", LargeBinary),
)

label_prediction = Table(
    "label_prediction",
    METADATA,
    _key("month", Date),
    _key("batch_number", BigInteger),
    _key("item_no", Integer),
    _key("model_version", Integer),
    _key("label", SmallInteger),
    _has("conf_bin", SmallInteger),
    _has("u_octave", SmallInteger),
    _has("positive", Boolean),
    _has("shadow", Boolean),
    _has("u", Double),
    _has("confidence", REAL),
)

label_count = Table(
    "label_count",
    METADATA,
    _key("batch_number", BigInteger),
    _key("model_version", Integer),
    _key("label", SmallInteger),
    _key("positive", Boolean),
    _key("conf_bin", SmallInteger),
    _has("n", BigInteger),
    _has("millionths", BigInteger),
)

set_aside = Table(
    "set_aside",
    METADATA,
    _key("batch_number", BigInteger),
    _key("item_no", Integer),
    _has("name", Text),
    _has("reason", Text),
    _has("detail", Text),
)

seen_file = Table(
    "seen_file",
    METADATA,
    _key("path", Text),
    _key("size", BigInteger),
    _key("mtime_ns", BigInteger),
    _may("sha256", Text),
    _has("batch_id", Text),
    _has("seen_at", MOMENT),
)

prediction_daily = Table(
    "prediction_daily",
    METADATA,
    _key("day", Date),
    _key("model_version", Integer),
    _key("predicted", SmallInteger),
    _key("conf_bin", SmallInteger),
    _has("n", BigInteger),
    _has("sum_conf", Double),
)

histogram_daily = Table(
    "histogram_daily",
    METADATA,
    _key("day", Date),
    _key("model_version", Integer),
    _key("reference", Text),
    _key("column_name", Text),
    _key("bin", Integer),
    _has("n", BigInteger),
)

draw = Table(
    "draw",
    METADATA,
    _serial("id"),
    _has("window_name", Text),
    _has("model_version", Integer),
    _has("round", SmallInteger),
    _has("kind", Text),
    _has("budget", Integer),
    _has("frozen_at", MOMENT),
    _may("judged_at", MOMENT),
)

draw_batch = Table("draw_batch", METADATA, _key("draw_id", BigInteger), _key("batch_number", BigInteger))

draw_stratum = Table(
    "draw_stratum",
    METADATA,
    _key("draw_id", BigInteger),
    _key("predicted", SmallInteger),
    _key("conf_bin", SmallInteger),
    _has("population", BigInteger),
    _has("sum_conf", Double),
    _has("drawn", BigInteger),
)

draw_label_stratum = Table(
    "draw_label_stratum",
    METADATA,
    _key("draw_id", BigInteger),
    _key("label", SmallInteger),
    _key("positive", Boolean),
    _key("conf_bin", SmallInteger),
    _has("population", BigInteger),
    _has("sum_conf", Double),
    _has("drawn", BigInteger),
    _may("largest_u", Double),
)

label_task = Table(
    "label_task",
    METADATA,
    _serial("id"),
    _has("queue", Text),
    _has("window_name", Text),
    _may("model_version", Integer),
    _has("class_list_id", Integer),
    _may("draw_id", BigInteger),
    _may("month", Date),
    _may("batch_number", BigInteger),
    _may("item_no", Integer),
    _has("image_id", Text),
    _may("shard_id", Integer),
    _may("shard_row", Integer),
    _has("predicted", SmallInteger),
    _may("conf_bin", SmallInteger),
    _has("u", Double),
    _may("inclusion_probability", Double),
    _has("state", Text),
    _may("settled_answer", Text),
    _may("settled_at", MOMENT),
    _may("exported_in", Text),
    _has("created_at", MOMENT),
    _may("strata", ARRAY(SmallInteger)),
    _may("given", SmallInteger),
)

label = Table(
    "label",
    METADATA,
    _serial("id"),
    _has("task_number", BigInteger),
    _may("task_id", BigInteger),
    _has("answer", Text),
    _has("annotator", Text),
    _has("answered_at", MOMENT),
    _has("received_at", MOMENT),
    _may("seconds", Double),
    _has("key", Text),
)

estimate_version = Table(
    "estimate_version",
    METADATA,
    _serial("id"),
    _has("window_name", Text),
    _has("model_version", Integer),
    _has("version", Integer),
    _has("computed_at", MOMENT),
    _has("overall", JSONB),
)

accuracy_estimate = Table(
    "accuracy_estimate",
    METADATA,
    _key("estimate_id", BigInteger),
    _key("class_no", Integer),
    _has("name", Text),
    _has("predicted", BigInteger),
    _has("labels", BigInteger),
    *(_may(f"{rate}_{part}", Double) for rate in ESTIMATED_RATES for part in ("value", "low", "high")),
    _has("state", Text),
    _has("reasons", TEXTS),
)

drift_finding = Table(
    "drift_finding",
    METADATA,
    _key("window_name", Text),
    _key("model_version", Integer),
    _key("column_name", Text),
    _may("p_value", Double),
    _may("v", Double),
    _has("drifted", Boolean),
    _may("plain_p_value", Double),
    _has("state", Text),
    _has("rows", BigInteger),
    _has("reference_rows", BigInteger),
    _has("computed_at", MOMENT),
)

reference_level = Table(
    "reference_level",
    METADATA,
    _serial("id"),
    _has("class_list_id", Integer),
    _has("window_name", Text),
    _has("model_version", Integer),
    _has("payload", JSONB),
    _has("set_at", MOMENT),
    _has("actor", Text),
    _has("reason", Text),
)

drift_reference = Table(
    "drift_reference",
    METADATA,
    _key("model_version", Integer),
    _has("window_name", Text),
    _has("payload", JSONB),
    _has("set_at", MOMENT),
)

judgement = Table(
    "judgement",
    METADATA,
    _key("window_name", Text),
    _key("model_version", Integer),
    _key("round", SmallInteger),
    _has("payload", JSONB),
    _has("judged_at", MOMENT),
)

retrain_request = Table(
    "retrain_request",
    METADATA,
    _serial("id"),
    _has("reason", Text),
    _has("classes", TEXTS),
    _may("window_name", Text),
    _may("model_version", Integer),
    _has("evidence", JSONB),
    _has("state", Text),
    _has("opened_at", MOMENT),
    _may("claimed_by", Text),
    _may("started_at", MOMENT),
    _may("lease_until", MOMENT),
    _has("attempts", Integer),
    _may("finished_at", MOMENT),
    _may("detail", Text),
)

decision = Table(
    "decision",
    METADATA,
    _serial("id"),
    _has("at", MOMENT),
    _has("kind", Text),
    _has("actor", Text),
    _has("action", Text),
    _has("reason", Text),
    _has("evidence", JSONB),
    _may("window_name", Text),
    _may("model_version", Integer),
    _has("classes", TEXTS),
)

alert = Table(
    "alert",
    METADATA,
    _serial("id"),
    _has("key", Text),
    _has("level", Text),
    _has("title", Text),
    _has("body", Text),
    _has("state", Text),
    _has("opened_at", MOMENT),
    _has("last_seen_at", MOMENT),
    _has("times", Integer),
    _may("recovered_at", MOMENT),
)

recalled_image = Table(
    "recalled_image",
    METADATA,
    _key("image_id", Text),
    _has("reason", Text),
    _has("actor", Text),
    _has("recalled_at", MOMENT),
    _may("dataset_version", Text),
    _may("purged_in", Text),
    _may("erased_at", MOMENT),
)
