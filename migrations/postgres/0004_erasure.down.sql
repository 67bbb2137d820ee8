DROP FUNCTION strategic_bury(TEXT[], TEXT[], BIGINT[], BIGINT[]);
DROP FUNCTION strategic_erasure_report(TEXT, BIGINT, BIGINT, INT, INT, JSONB);
DROP FUNCTION strategic_erased(TEXT, BIGINT, TEXT, TEXT, BIGINT, BIGINT);
DROP FUNCTION strategic_forget(TEXT, TEXT);
DROP FUNCTION strategic_erasure_open(TEXT, TEXT, BIGINT, BIGINT);
DROP FUNCTION strategic_erase_rows(TEXT, TEXT, BIGINT);
DROP FUNCTION strategic_erasure_hash(TEXT, TEXT);
DROP TABLE strategic_erasure_key;
DROP TABLE strategic_erasure;
