-- Where the second input stands (state/inbox.h).

ALTER TABLE meta ADD COLUMN covered_inbox INTEGER NOT NULL DEFAULT 0; -- every row up to this id is in the state

-- Keys that have had an event from the inbox, which the tables of the source know nothing of.
CREATE TABLE inbox_key (
    user_id  TEXT NOT NULL, -- empty: the bot's own
    bot_name TEXT NOT NULL,
    PRIMARY KEY (user_id, bot_name)
) STRICT, WITHOUT ROWID;
