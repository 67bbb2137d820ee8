-- lifecycle
DO $$ BEGIN END $$;
