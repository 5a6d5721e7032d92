"""The statements behind draws of images with several labels; `sure` is the last confidence bin."""

from __future__ import annotations

from sqlalchemy import text

# OFFSET 0 keeps the planner from merging a walk of the index by stratum into one join that reads the whole month.

POPULATION = text(
    """
SELECT label, positive, conf_bin, CAST(sum(n) AS bigint) AS population,
    CAST(sum(millionths) AS double precision) / :millionths AS sum_conf
FROM label_count
WHERE model_version = :version AND batch_number = ANY(CAST(:batches AS bigint[]))
GROUP BY label, positive, conf_bin ORDER BY label, positive, conf_bin
"""
)
OVERLAP = text(
    """
SELECT p.batch_number, p.item_no, p.label, p.positive, p.conf_bin
FROM generate_series(0, :labels - 1) l, (VALUES (true), (false)) s (positive), generate_series(0, :sure) b
CROSS JOIN LATERAL (
    SELECT * FROM label_prediction
    WHERE month BETWEEN :first_month AND :last_month AND model_version = :version AND NOT shadow
        AND label = l AND positive = s.positive AND conf_bin = b AND u_octave <= :octave AND u < :share
        AND batch_number = ANY(CAST(:batches AS bigint[]))
    OFFSET 0
) p
"""
)
# Every image with a small u, and the labels it has a row of, found by the octaves of each predicted class: `prediction`
# has no index of u alone.
LOW = text(
    """
CREATE TEMPORARY TABLE low_image ON COMMIT DROP AS
SELECT p.month, p.batch_number, p.item_no, p.u, ARRAY(
        SELECT r.label FROM label_prediction r
        WHERE r.batch_number = p.batch_number AND r.item_no = p.item_no AND r.model_version = :version
            AND r.month = p.month
    ) AS labels
FROM generate_series(0, :labels - 1) k, generate_series(0, :sure) b
CROSS JOIN LATERAL (
    SELECT * FROM prediction
    WHERE month BETWEEN :first_month AND :last_month AND model_version = :version AND NOT shadow
        AND predicted = k AND conf_bin = b AND u_octave <= :octave AND u < :share
        AND batch_number = ANY(CAST(:batches AS bigint[]))
    OFFSET 0
) p
"""
)
NTH_LOW = text("SELECT u FROM low_image ORDER BY u, batch_number, item_no OFFSET :place LIMIT 1")
# Of each stratum with rows: how many lie within the base, the largest of them, and the last that its own size takes.
WALK = text(
    """
SELECT s.label, s.positive, s.conf_bin, within.many, within.largest, own.u
FROM unnest(
    CAST(:label AS smallint[]), CAST(:positive AS boolean[]), CAST(:conf_bin AS smallint[]), CAST(:wanted AS bigint[])
) s (label, positive, conf_bin, wanted)
CROSS JOIN LATERAL (
    SELECT count(*) AS many, max(u) AS largest FROM label_prediction
    WHERE month BETWEEN :first_month AND :last_month AND model_version = :version AND NOT shadow
        AND label = s.label AND positive = s.positive AND conf_bin = s.conf_bin
        AND u_octave <= :octave AND u <= :limit AND batch_number = ANY(CAST(:batches AS bigint[]))
) within
LEFT JOIN LATERAL (
    SELECT u FROM label_prediction
    WHERE month BETWEEN :first_month AND :last_month AND model_version = :version AND NOT shadow
        AND label = s.label AND positive = s.positive AND conf_bin = s.conf_bin
        AND batch_number = ANY(CAST(:batches AS bigint[]))
    ORDER BY u_octave, u, batch_number, item_no OFFSET greatest(s.wanted - 1, 0) LIMIT 1
) own ON s.wanted > 0
"""
)
ABSENT = text(
    """
SELECT l.u FROM low_image l
WHERE CAST(:label AS smallint) <> ALL(l.labels)
ORDER BY l.u, l.batch_number, l.item_no LIMIT :wanted
"""
)
WANTED = text(
    """
CREATE TEMPORARY TABLE wanted_image ON COMMIT DROP AS
SELECT p.month, p.batch_number, p.item_no
FROM unnest(
    CAST(:label AS smallint[]), CAST(:positive AS boolean[]), CAST(:conf_bin AS smallint[]),
    CAST(:octaves AS smallint[]), CAST(:limits AS double precision[])
) s (label, positive, conf_bin, octave, largest)
CROSS JOIN LATERAL (
    SELECT * FROM label_prediction
    WHERE month BETWEEN :first_month AND :last_month AND model_version = :version AND NOT shadow
        AND label = s.label AND positive = s.positive AND conf_bin = s.conf_bin
        AND u_octave <= s.octave AND u <= s.largest AND batch_number = ANY(CAST(:batches AS bigint[]))
    OFFSET 0
) p
UNION
SELECT l.month, l.batch_number, l.item_no FROM low_image l
WHERE EXISTS (
    SELECT 1 FROM draw_label_stratum s
    WHERE s.draw_id = :strata AND NOT s.positive AND s.conf_bin = :sure AND l.u <= s.largest_u
        AND s.label <> ALL(l.labels)
)
"""
)
# Tasks are numbered strata mixed, as those of classes are.
MAKE_TASKS = text(
    """
INSERT INTO label_task (
    queue, window_name, model_version, class_list_id, draw_id, month, batch_number, item_no, image_id,
    shard_id, shard_row, predicted, conf_bin, u, inclusion_probability, state, created_at, strata
)
SELECT 'accuracy', :window, CAST(:version AS integer), CAST(:class_list AS integer), CAST(:draw AS bigint), p.month,
    p.batch_number, p.item_no, p.image_id, p.shard_id, p.shard_row, p.predicted, p.conf_bin, p.u, i.most, 'open', :now,
    i.strata
FROM wanted_image w
JOIN prediction p ON p.batch_number = w.batch_number AND p.item_no = w.item_no AND p.model_version = :version
    AND p.month = w.month
CROSS JOIN LATERAL (
    SELECT max(CAST(s.drawn AS double precision) / s.population) AS most,
        array_agg(CAST(s.conf_bin + CASE WHEN s.positive THEN 0 ELSE :sure + 1 END AS smallint) ORDER BY k) AS strata
    FROM generate_series(0, :labels - 1) k
    LEFT JOIN label_prediction r ON r.batch_number = p.batch_number AND r.item_no = p.item_no
        AND r.model_version = :version AND r.label = k AND r.month = p.month
    JOIN draw_label_stratum s ON s.draw_id = :strata AND s.label = k AND s.positive = coalesce(r.positive, false)
        AND s.conf_bin = coalesce(r.conf_bin, :sure)
) i
ORDER BY p.u / i.most, p.batch_number, p.item_no
ON CONFLICT (queue, window_name, model_version, batch_number, item_no) DO NOTHING
"""
)
GROW = text(
    """
UPDATE draw_label_stratum s SET drawn = w.drawn, largest_u = w.largest
FROM unnest(
    CAST(:label AS smallint[]), CAST(:positive AS boolean[]), CAST(:conf_bin AS smallint[]), CAST(:drawn AS bigint[]),
    CAST(:largest AS double precision[])
) w (label, positive, conf_bin, drawn, largest)
WHERE s.draw_id = :strata AND s.label = w.label AND s.positive = w.positive AND s.conf_bin = w.conf_bin
"""
)
REWEIGH = text(
    """
UPDATE label_task t SET inclusion_probability = m.most
FROM (
    SELECT t.id, max(CAST(s.drawn AS double precision) / s.population) AS most
    FROM label_task t CROSS JOIN LATERAL unnest(t.strata) WITH ORDINALITY o (code, place)
    JOIN draw_label_stratum s ON s.draw_id = :strata AND s.label = o.place - 1 AND s.positive = (o.code <= :sure)
        AND s.conf_bin = o.code % (:sure + 1)
    WHERE t.draw_id = :strata GROUP BY t.id
) m WHERE t.id = m.id
"""
)
ANSWERS = text(
    """
SELECT o.place - 1 AS label, o.code, count(*) AS labelled,
    count(*) FILTER (WHERE jsonb_exists(CAST(t.settled_answer AS jsonb), c.classes[o.place])) AS present
FROM label_task t JOIN class_list c ON c.id = t.class_list_id
CROSS JOIN LATERAL unnest(t.strata) WITH ORDINALITY o (code, place)
JOIN draw_label_stratum s ON s.draw_id = :strata AND s.label = o.place - 1 AND s.positive = (o.code <= :sure)
    AND s.conf_bin = o.code % (:sure + 1) AND t.u <= s.largest_u
WHERE t.queue = 'accuracy' AND t.window_name = :window AND t.model_version = :version AND t.state = 'settled'
GROUP BY o.place, o.code
"""
)
TASKS = text(
    "SELECT count(*), count(*) FILTER (WHERE state = 'settled') FROM label_task"
    " WHERE queue = 'accuracy' AND window_name = :window AND model_version = :version"
)
