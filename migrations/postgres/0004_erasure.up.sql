-- erasure
DO $$ BEGIN END $$;
