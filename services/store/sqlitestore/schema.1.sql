-- The schema of version 1. A file that an earlier release has made has these tables, but not the number of a version.
-- Times are milliseconds since 1970. Tables with a text key are WITHOUT ROWID: a look-up by key then reads one B-tree, not two.
CREATE TABLE IF NOT EXISTS users (
  email    TEXT PRIMARY KEY,
  password BLOB NOT NULL,
  author   TEXT NOT NULL, -- JSON
  created  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sessions (
  id      TEXT PRIMARY KEY,
  email   TEXT NOT NULL,
  expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- For Sweep, which deletes by expiry.
CREATE INDEX IF NOT EXISTS sessions_by_end ON sessions (expires);
CREATE TABLE IF NOT EXISTS products (
  id     TEXT PRIMARY KEY,
  nombre TEXT NOT NULL,
  precio REAL NOT NULL,
  foto   TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (
  key     TEXT PRIMARY KEY,
  n       INTEGER NOT NULL,
  expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- For Sweep.
CREATE INDEX IF NOT EXISTS counters_by_end ON counters (expires);
-- The records of running processes.
CREATE TABLE IF NOT EXISTS processes (
  id      TEXT PRIMARY KEY,
  record  TEXT NOT NULL, -- JSON
  expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
-- For Sweep and CountProcesses.
CREATE INDEX IF NOT EXISTS processes_by_end ON processes (expires);
-- The primary key of entries is the rowid, so a range of numbers is one scan in order. The unique constraint keeps a repeated
-- request from being stored twice, and its index finds what is stored and old events.
CREATE TABLE IF NOT EXISTS entries (
  n         INTEGER PRIMARY KEY,
  kind      TEXT NOT NULL,
  subject   TEXT NOT NULL,
  message   TEXT, -- JSON, for messages only
  author    TEXT NOT NULL,
  client_id TEXT NOT NULL,
  UNIQUE (author, client_id)
) STRICT;
