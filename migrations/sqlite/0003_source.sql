-- What else must fit before a state goes on from its source.

ALTER TABLE meta ADD COLUMN timeline INTEGER NOT NULL DEFAULT 0; -- of the cluster; 0: not known
ALTER TABLE meta ADD COLUMN loading  INTEGER NOT NULL DEFAULT 0; -- 1: the initial snapshot is not complete
ALTER TABLE meta ADD COLUMN since_us INTEGER NOT NULL DEFAULT 0; -- what the snapshot left out is older; 0: nothing known
