-- Version 3: the records of processes that have an open panel can be found. A process of an earlier version goes on writing
-- records into the same three columns.
CREATE INDEX processes_with_panels ON processes (expires) WHERE json_extract(record, '$.Panels') > 0;
