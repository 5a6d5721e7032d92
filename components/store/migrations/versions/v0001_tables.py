"""The first schema: models, predictions, labels, estimates, requests, ledger."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

MODELS = """
CREATE TABLE class_list (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    classes text[] NOT NULL CHECK (cardinality(classes) >= 1),
    digest text NOT NULL UNIQUE,
    created_at timestamptz NOT NULL
);
COMMENT ON TABLE class_list IS 'Ordered class names; estimates and references never mix two lists';

CREATE TABLE model_version (
    version integer PRIMARY KEY CHECK (version > 0),
    run_id text NOT NULL,
    dataset_version text NOT NULL,
    git_commit text NOT NULL,
    class_list_id integer NOT NULL REFERENCES class_list,
    artifact_sha256 text NOT NULL,
    preprocess_sha256 text NOT NULL,
    state text NOT NULL CHECK (state IN ('candidate', 'champion', 'previous', 'retired', 'rejected')),
    created_at timestamptz NOT NULL,
    metrics jsonb NOT NULL
);
CREATE UNIQUE INDEX model_version_one_champion ON model_version ((true)) WHERE state = 'champion';
CREATE UNIQUE INDEX model_version_one_previous ON model_version ((true)) WHERE state = 'previous';
COMMENT ON TABLE model_version IS 'Registered models under their version in the registry';

CREATE TABLE champion (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version integer NOT NULL REFERENCES model_version,
    since timestamptz NOT NULL
);
COMMENT ON TABLE champion IS 'The serving model, changed by compare-and-set; the registry alias mirrors it';
"""

PREDICTIONS = """
CREATE TABLE batch (
    id text PRIMARY KEY,
    number bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    content_sha256 text NOT NULL,
    source text NOT NULL,
    model_version integer NOT NULL REFERENCES model_version,
    class_list_id integer NOT NULL REFERENCES class_list,
    items integer NOT NULL CHECK (items >= 0),
    scored_at timestamptz NOT NULL,
    month date NOT NULL CHECK (month = date_trunc('month', scored_at AT TIME ZONE 'UTC')::date),
    state text NOT NULL CHECK (state IN ('open', 'closed')),
    rows bigint NOT NULL DEFAULT 0,
    rolled_up_rows bigint NOT NULL DEFAULT 0,
    opened_at timestamptz NOT NULL,
    closed_at timestamptz
);
CREATE INDEX batch_scored_at ON batch (scored_at);
COMMENT ON TABLE batch IS 'One delivery of images; id, content, model and time are fixed when the row is made';
COMMENT ON COLUMN batch.number IS 'Short key of the batch inside prediction';
COMMENT ON COLUMN batch.rows IS 'Predictions written, shadow ones excluded';
COMMENT ON COLUMN batch.rolled_up_rows IS 'The value of rows that prediction_daily has seen';

CREATE TABLE image_shard (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL UNIQUE
);
COMMENT ON TABLE image_shard IS 'Shards of the image store that hold the pixels of predictions';

CREATE TABLE prediction (
    month date NOT NULL,
    batch_number bigint NOT NULL,
    item_no integer NOT NULL,
    model_version integer NOT NULL,
    u double precision NOT NULL,
    shard_id integer NOT NULL,
    shard_row integer NOT NULL,
    predicted smallint NOT NULL,
    conf_bin smallint NOT NULL,
    confidence real NOT NULL,
    ood_score real NOT NULL,
    latency_ms real NOT NULL,
    brightness real,
    contrast real,
    sharpness real,
    saturation real,
    width real,
    height real,
    aspect real,
    bytes real,
    shadow boolean NOT NULL,
    needs_review boolean NOT NULL,
    image_id text NOT NULL,
    name text NOT NULL,
    top3_class smallint[] NOT NULL,
    top3_confidence real[] NOT NULL,
    probabilities bytea NOT NULL,
    PRIMARY KEY (month, batch_number, item_no, model_version)
) PARTITION BY RANGE (month);
CREATE INDEX prediction_draw ON prediction (model_version, predicted, conf_bin, u) WHERE NOT shadow;
COMMENT ON TABLE prediction IS 'One row an item, model and batch; a repeated insert is the same row';
COMMENT ON COLUMN prediction.u IS 'Keyed hash of (batch id, item number) in [0, 1); draws take the smallest';
COMMENT ON COLUMN prediction.probabilities IS 'All K calibrated probabilities, float16, little-endian';

CREATE FUNCTION ensure_prediction_month(wanted date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    first_day date := date_trunc('month', wanted::timestamp)::date;
    partition text := 'prediction_' || to_char(first_day, 'YYYY_MM');
BEGIN
    IF to_regclass(quote_ident(partition)) IS NOT NULL THEN
        RETURN;
    END IF;
    -- A lock on the table, not an advisory one: taking it also makes this session see what others have made.
    LOCK TABLE prediction IN SHARE UPDATE EXCLUSIVE MODE;
    IF to_regclass(quote_ident(partition)) IS NOT NULL THEN
        RETURN;
    END IF;
    -- Made aside and attached: CREATE … PARTITION OF would wait for every reader of the other months.
    EXECUTE format('CREATE TABLE %I (LIKE prediction INCLUDING ALL)', partition);
    EXECUTE format(
        'ALTER TABLE prediction ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
        partition, first_day, (first_day + interval '1 month')::date
    );
END
$$;

CREATE TABLE set_aside (
    batch_number bigint NOT NULL REFERENCES batch (number),
    item_no integer NOT NULL,
    name text NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    PRIMARY KEY (batch_number, item_no)
);
COMMENT ON TABLE set_aside IS 'Files of a batch that were not scored, and the stated rule that set them aside';

CREATE TABLE seen_file (
    path text NOT NULL,
    size bigint NOT NULL,
    mtime_ns bigint NOT NULL,
    sha256 text,
    batch_id text NOT NULL,
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (path, size, mtime_ns)
);
COMMENT ON TABLE seen_file IS 'Files of the watched folder that a batch has taken';

CREATE TABLE prediction_daily (
    day date NOT NULL,
    model_version integer NOT NULL,
    predicted smallint NOT NULL,
    conf_bin smallint NOT NULL,
    n bigint NOT NULL,
    sum_conf double precision NOT NULL,
    PRIMARY KEY (day, model_version, predicted, conf_bin)
);
COMMENT ON TABLE prediction_daily IS 'Rollup by UTC day, recomputed for days that received rows; shadow rows excluded';

CREATE TABLE histogram_daily (
    day date NOT NULL,
    model_version integer NOT NULL,
    reference text NOT NULL,
    column_name text NOT NULL,
    bin integer NOT NULL,
    n bigint NOT NULL,
    PRIMARY KEY (day, model_version, reference, column_name, bin)
);
COMMENT ON TABLE histogram_daily IS 'Counts between the edges whose hash is reference; bin -1 counts missing values';
"""

LABELLING = """
CREATE TABLE draw (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    window_name text NOT NULL,
    model_version integer NOT NULL REFERENCES model_version,
    round smallint NOT NULL CHECK (round IN (1, 2)),
    kind text NOT NULL CHECK (kind IN ('reference', 'regular', 'topup')),
    budget integer NOT NULL CHECK (budget >= 0),
    frozen_at timestamptz NOT NULL,
    judged_at timestamptz,
    UNIQUE (window_name, model_version, round),
    CHECK ((round = 2) = (kind = 'topup'))
);
COMMENT ON TABLE draw IS 'Samples drawn to estimate accuracy; round 2 is the top-up of round 1';

CREATE TABLE draw_batch (
    draw_id bigint NOT NULL REFERENCES draw,
    batch_number bigint NOT NULL REFERENCES batch (number),
    PRIMARY KEY (draw_id, batch_number)
);
COMMENT ON TABLE draw_batch IS 'The closed batches that were the population when the draw was frozen';

CREATE TABLE draw_stratum (
    draw_id bigint NOT NULL REFERENCES draw,
    predicted smallint NOT NULL,
    conf_bin smallint NOT NULL,
    population bigint NOT NULL CHECK (population > 0),
    sum_conf double precision NOT NULL,
    drawn bigint NOT NULL CHECK (drawn BETWEEN 0 AND population),
    PRIMARY KEY (draw_id, predicted, conf_bin)
);
COMMENT ON TABLE draw_stratum IS 'Frozen N_h and n_h per predicted class and confidence bin, kept with round 1';

CREATE TABLE label_task (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text NOT NULL CHECK (queue IN ('accuracy', 'training')),
    window_name text NOT NULL,
    model_version integer NOT NULL REFERENCES model_version,
    class_list_id integer NOT NULL REFERENCES class_list,
    draw_id bigint REFERENCES draw,
    month date NOT NULL,
    batch_number bigint NOT NULL REFERENCES batch (number),
    item_no integer NOT NULL,
    image_id text NOT NULL,
    shard_id integer NOT NULL REFERENCES image_shard,
    shard_row integer NOT NULL,
    predicted smallint NOT NULL,
    conf_bin smallint NOT NULL,
    u double precision NOT NULL,
    inclusion_probability double precision CHECK (inclusion_probability > 0 AND inclusion_probability <= 1),
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'settled', 'adjudication')),
    settled_answer text,
    settled_at timestamptz,
    exported_in text,
    created_at timestamptz NOT NULL,
    UNIQUE (queue, window_name, model_version, batch_number, item_no),
    CHECK ((state = 'settled') = (settled_answer IS NOT NULL)),
    CHECK ((queue = 'accuracy') = (draw_id IS NOT NULL)),
    CHECK ((queue = 'accuracy') = (inclusion_probability IS NOT NULL))
);
CREATE INDEX label_task_draw ON label_task (draw_id);
CREATE INDEX label_task_image ON label_task (image_id);
CREATE INDEX label_task_open ON label_task (queue, id) WHERE state <> 'settled';
CREATE INDEX label_task_to_export ON label_task (settled_at) WHERE state = 'settled' AND exported_in IS NULL;
COMMENT ON TABLE label_task IS 'What people are asked; the accuracy queue carries stratum and inclusion probability';

CREATE TABLE label (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    task_number bigint NOT NULL,
    task_id bigint REFERENCES label_task,
    answer text NOT NULL,
    annotator text NOT NULL,
    answered_at timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    seconds double precision,
    key text NOT NULL UNIQUE,
    CHECK (task_id = task_number)
);
CREATE INDEX label_task_id ON label (task_id);
CREATE INDEX label_parked ON label (task_number) WHERE task_id IS NULL;
CREATE VIEW trainable_label AS
SELECT t.id AS task_id, t.image_id, t.settled_answer AS answer, t.window_name AS "window", t.model_version,
    c.classes[t.predicted + 1] AS predicted,
    ARRAY(SELECT DISTINCT l.annotator FROM label l WHERE l.task_id = t.id ORDER BY 1) AS annotators,
    b.scored_at AS captured_at, t.settled_at, s.name AS shard, t.shard_row AS "row", t.queue, t.exported_in
FROM label_task t
JOIN class_list c ON c.id = t.class_list_id
JOIN batch b ON b.number = t.batch_number
JOIN image_shard s ON s.id = t.shard_id
WHERE t.state = 'settled' AND t.settled_answer = ANY(c.classes);
COMMENT ON VIEW trainable_label IS 'Verdicts that name a class, and where the pixels lie';
COMMENT ON TABLE label IS 'Append-only answers; task_id is empty while the task is unknown (parked)';
"""

MONITORING = """
CREATE TABLE estimate_version (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    window_name text NOT NULL,
    model_version integer NOT NULL REFERENCES model_version,
    version integer NOT NULL,
    computed_at timestamptz NOT NULL,
    overall jsonb NOT NULL,
    UNIQUE (window_name, model_version, version)
);
COMMENT ON TABLE estimate_version IS 'One computation of a segment''s accuracy; later labels make a new version';

CREATE TABLE accuracy_estimate (
    estimate_id bigint NOT NULL REFERENCES estimate_version,
    class_no integer NOT NULL,
    name text NOT NULL,
    predicted bigint NOT NULL,
    labels bigint NOT NULL,
    precision_value double precision,
    precision_low double precision,
    precision_high double precision,
    recall_value double precision,
    recall_low double precision,
    recall_high double precision,
    state text NOT NULL,
    reasons text[] NOT NULL,
    PRIMARY KEY (estimate_id, class_no)
);
COMMENT ON TABLE accuracy_estimate IS 'Per-class precision and recall, 95 % intervals; NULL where nothing can be said';

CREATE TABLE drift_finding (
    window_name text NOT NULL,
    model_version integer NOT NULL REFERENCES model_version,
    column_name text NOT NULL,
    p_value double precision,
    v double precision,
    drifted boolean NOT NULL,
    plain_p_value double precision,
    state text NOT NULL,
    rows bigint NOT NULL,
    reference_rows bigint NOT NULL,
    computed_at timestamptz NOT NULL,
    PRIMARY KEY (window_name, model_version, column_name)
);
COMMENT ON TABLE drift_finding IS 'The latest comparison of a segment''s columns with the frozen reference';

CREATE TABLE reference_level (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    class_list_id integer NOT NULL REFERENCES class_list,
    window_name text NOT NULL,
    model_version integer NOT NULL REFERENCES model_version,
    payload jsonb NOT NULL,
    set_at timestamptz NOT NULL,
    actor text NOT NULL,
    reason text NOT NULL
);
CREATE INDEX reference_level_latest ON reference_level (class_list_id, id);
COMMENT ON TABLE reference_level IS 'The service''s reference accuracy per class list; the newest row counts';

CREATE TABLE drift_reference (
    model_version integer PRIMARY KEY REFERENCES model_version,
    window_name text NOT NULL,
    payload jsonb NOT NULL,
    set_at timestamptz NOT NULL
);
COMMENT ON TABLE drift_reference IS 'What a model''s inputs and outputs looked like at its promotion; frozen';

CREATE TABLE judgement (
    window_name text NOT NULL,
    model_version integer NOT NULL REFERENCES model_version,
    round smallint NOT NULL CHECK (round IN (1, 2)),
    payload jsonb NOT NULL,
    judged_at timestamptz NOT NULL,
    PRIMARY KEY (window_name, model_version, round)
);
COMMENT ON TABLE judgement IS 'A segment is judged once a round, never again: later labels change no decision';
"""

OPERATIONS = """
CREATE TABLE retrain_request (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    reason text NOT NULL,
    classes text[] NOT NULL,
    window_name text,
    model_version integer REFERENCES model_version,
    evidence jsonb NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'claimed', 'done', 'refused', 'failed', 'unhelpful')),
    opened_at timestamptz NOT NULL,
    claimed_by text,
    started_at timestamptz,
    lease_until timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    finished_at timestamptz,
    detail text,
    CHECK ((state = 'claimed') = (lease_until IS NOT NULL))
);
CREATE UNIQUE INDEX retrain_request_one_open ON retrain_request ((true)) WHERE state IN ('open', 'claimed');
CREATE UNIQUE INDEX retrain_request_one_a_segment ON retrain_request (window_name, model_version);
COMMENT ON TABLE retrain_request IS 'Wishes for a retraining, one unfinished at a time; a claim ends with its lease';

CREATE TABLE decision (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    kind text NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    reason text NOT NULL,
    evidence jsonb NOT NULL,
    window_name text,
    model_version integer,
    classes text[] NOT NULL
);
CREATE INDEX decision_kind ON decision (kind, id);
COMMENT ON TABLE decision IS 'Append-only ledger: every trigger, refusal, promotion, rejection, rollback, override';

CREATE TABLE alert (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key text NOT NULL,
    level text NOT NULL,
    title text NOT NULL,
    body text NOT NULL,
    state text NOT NULL CHECK (state IN ('open', 'recovered')),
    opened_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    times integer NOT NULL DEFAULT 1,
    recovered_at timestamptz
);
CREATE UNIQUE INDEX alert_one_open ON alert (key) WHERE state = 'open';
COMMENT ON TABLE alert IS 'Messages to people; one open alert a key, counted instead of repeated';
"""

APPEND_ONLY = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'table % is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END
$$;
CREATE FUNCTION refuse_label_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- The only change ever: a parked answer finds its task.
    IF OLD.task_id IS NULL AND NEW.task_id = OLD.task_number
        AND to_jsonb(NEW) - 'task_id' = to_jsonb(OLD) - 'task_id' THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'table label is append-only: UPDATE refused' USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER decision_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON decision
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER label_append_only BEFORE DELETE OR TRUNCATE ON label
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER label_unchanged BEFORE UPDATE ON label
    FOR EACH ROW EXECUTE FUNCTION refuse_label_change();
"""


def upgrade() -> None:
    """Make every table, index, function and trigger."""
    for part in (MODELS, PREDICTIONS, LABELLING, MONITORING, OPERATIONS, APPEND_ONLY):
        op.execute(part)
