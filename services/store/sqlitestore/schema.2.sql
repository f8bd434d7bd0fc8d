-- Version 2: accounts have sessions that they can list and end, products have an owner, and websockets are counted.
ALTER TABLE users ADD COLUMN generation TEXT NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN devices TEXT NOT NULL DEFAULT '[]'; -- JSON
-- The ids of version 1 are those of the cookies. In version 2 they are hashes, so no cookie finds an old session.
DELETE FROM sessions;
ALTER TABLE sessions ADD COLUMN generation TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN created INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN agent TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN address TEXT NOT NULL DEFAULT '';
CREATE INDEX sessions_by_email ON sessions (email);
ALTER TABLE products ADD COLUMN owner TEXT NOT NULL DEFAULT '';
-- For CreateProduct, which counts an owner's products.
CREATE INDEX products_by_owner ON products (owner);
-- How many of a key each process has, such as the open websockets of an account.
CREATE TABLE holds (
  key     TEXT NOT NULL,
  holder  TEXT NOT NULL,
  n       INTEGER NOT NULL,
  expires INTEGER NOT NULL,
  PRIMARY KEY (key, holder)
) STRICT, WITHOUT ROWID;
-- For Sweep.
CREATE INDEX holds_by_end ON holds (expires);
