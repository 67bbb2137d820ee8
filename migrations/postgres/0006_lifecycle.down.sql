ALTER TABLE strategic_bot_epoch DROP COLUMN defined_at, DROP COLUMN character_version,
    DROP COLUMN definition;
DROP FUNCTION strategic_sweep(INTERVAL, INT);
