-- requests
DO $$ BEGIN END $$;
