-- Run at every start, by all processes at once. Times are milliseconds since 1970.
BEGIN IMMEDIATE;
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
CREATE INDEX IF NOT EXISTS counters_by_end ON counters (expires);
CREATE TABLE IF NOT EXISTS entries (
  n         INTEGER PRIMARY KEY,
  kind      TEXT NOT NULL,
  subject   TEXT NOT NULL,
  message   TEXT, -- JSON, for messages only
  author    TEXT NOT NULL,
  client_id TEXT NOT NULL,
  UNIQUE (author, client_id)
) STRICT;
COMMIT;
