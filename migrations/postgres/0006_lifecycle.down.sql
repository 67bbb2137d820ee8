DROP FUNCTION strategic_sweep(INTERVAL, INT);
