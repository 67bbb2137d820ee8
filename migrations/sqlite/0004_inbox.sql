-- Where the second input stands (state/inbox.h).

ALTER TABLE meta ADD COLUMN covered_inbox INTEGER NOT NULL DEFAULT 0; -- every row up to this id is in the state
