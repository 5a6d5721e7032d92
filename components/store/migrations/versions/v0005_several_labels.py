"""Images that carry several labels: what is predicted of each, the draws of each, answers that are sets."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

CLASS_LIST = """
ALTER TABLE class_list ADD COLUMN several boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN class_list.several IS 'Images carry any number of the classes, as labels, instead of exactly one';
"""

PREDICTIONS = """
-- What the index of draws reads comes first, as in prediction.
CREATE TABLE label_prediction (
    month date NOT NULL,
    batch_number bigint NOT NULL,
    item_no integer NOT NULL,
    model_version integer NOT NULL,
    label smallint NOT NULL,
    conf_bin smallint NOT NULL,
    u_octave smallint NOT NULL,
    positive boolean NOT NULL,
    shadow boolean NOT NULL,
    u double precision NOT NULL,
    confidence real NOT NULL,
    PRIMARY KEY (batch_number, item_no, model_version, label, month)
) PARTITION BY RANGE (month);
CREATE INDEX label_prediction_draw ON label_prediction (label, positive, conf_bin, u_octave, model_version)
    WHERE NOT shadow;
COMMENT ON TABLE label_prediction IS
    'Labels that a prediction names, or is unsure to leave out; a label without a row is surely absent';
COMMENT ON COLUMN label_prediction.u IS 'As in prediction: it belongs to the image, so the draws of its labels agree';
COMMENT ON COLUMN label_prediction.confidence IS 'In carrying the label where positive, else in not carrying it';

CREATE TABLE label_count (
    batch_number bigint NOT NULL REFERENCES batch (number),
    model_version integer NOT NULL,
    label smallint NOT NULL,
    positive boolean NOT NULL,
    conf_bin smallint NOT NULL,
    n bigint NOT NULL,
    millionths bigint NOT NULL,
    PRIMARY KEY (batch_number, model_version, label, positive, conf_bin)
);
COMMENT ON TABLE label_count IS 'Images of a batch per label, predicted or not, and confidence bin, sure absences too';
COMMENT ON COLUMN label_count.millionths IS 'Sum of confidences as whole millionths: the order of writing is no matter';

CREATE OR REPLACE FUNCTION ensure_prediction_month(wanted date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    first_day date := date_trunc('month', wanted::timestamp)::date;
    parent text;
    partition text;
BEGIN
    FOREACH parent IN ARRAY ARRAY['prediction', 'label_prediction'] LOOP
        partition := parent || '_' || to_char(first_day, 'YYYY_MM');
        CONTINUE WHEN to_regclass(quote_ident(partition)) IS NOT NULL;
        -- A lock on the table, not an advisory one: taking it also makes this session see what others have made.
        EXECUTE format('LOCK TABLE %I IN SHARE UPDATE EXCLUSIVE MODE', parent);
        CONTINUE WHEN to_regclass(quote_ident(partition)) IS NOT NULL;
        -- Made aside and attached: CREATE … PARTITION OF would wait for every reader of the other months.
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', partition, parent);
        EXECUTE format(
            'ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
            parent, partition, first_day, (first_day + interval '1 month')::date
        );
    END LOOP;
END
$$;
DO $$
DECLARE
    wanted date;
BEGIN
    FOR wanted IN SELECT DISTINCT month FROM batch LOOP
        PERFORM ensure_prediction_month(wanted);
    END LOOP;
END
$$;
"""

LABELLING = """
CREATE TABLE draw_label_stratum (
    draw_id bigint NOT NULL REFERENCES draw,
    label smallint NOT NULL,
    positive boolean NOT NULL,
    conf_bin smallint NOT NULL,
    population bigint NOT NULL CHECK (population > 0),
    sum_conf double precision NOT NULL,
    drawn bigint NOT NULL CHECK (drawn BETWEEN 0 AND population),
    largest_u double precision,
    PRIMARY KEY (draw_id, label, positive, conf_bin),
    CHECK ((drawn = 0) = (largest_u IS NULL))
);
COMMENT ON TABLE draw_label_stratum IS 'Frozen N_h and n_h per label, predicted or not, and confidence bin';
COMMENT ON COLUMN draw_label_stratum.largest_u IS
    'An answer counts for the stratum where the u of its image is at most this: others are no random sample of it';

ALTER TABLE label_task ADD COLUMN strata smallint[];
COMMENT ON COLUMN label_task.strata IS
    'With several labels, the image''s stratum for each: its confidence bin, plus 4 where it is not predicted';
"""

# Training does not know sets of labels yet.
TRAINABLE = """
CREATE OR REPLACE VIEW trainable_label AS
SELECT t.id AS task_id, t.image_id, t.settled_answer AS answer, t.window_name AS "window", t.model_version,
    c.classes[t.predicted + 1] AS predicted,
    ARRAY(SELECT DISTINCT l.annotator FROM label l WHERE l.task_id = t.id ORDER BY 1) AS annotators,
    b.scored_at AS captured_at, t.settled_at, s.name AS shard, t.shard_row AS "row", t.queue, t.exported_in
FROM label_task t
JOIN class_list c ON c.id = t.class_list_id
JOIN batch b ON b.number = t.batch_number
JOIN image_shard s ON s.id = t.shard_id
WHERE t.state = 'settled' AND t.settled_answer = ANY(c.classes) AND t.queue <> 'check' AND NOT c.several;
COMMENT ON VIEW trainable_label IS 'Verdicts that name the one class of an image, and where the pixels lie';
"""


def upgrade() -> None:
    """Add what several labels need; what is stored about one class an image stays as it is."""
    for part in (CLASS_LIST, PREDICTIONS, LABELLING, TRAINABLE):
        op.execute(part)
