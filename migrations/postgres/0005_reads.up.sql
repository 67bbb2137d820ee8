-- reads
DO $$ BEGIN END $$;
