DROP FUNCTION strategic_bundle_lite(TEXT, TEXT, INT);
