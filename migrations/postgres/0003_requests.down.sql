-- With the triggers that strategic_watch() has made.
DROP FUNCTION strategic_watched() CASCADE;
DROP FUNCTION strategic_watch(REGCLASS, NAME, NAME, TEXT, NAME[]);
DROP FUNCTION strategic_unwatch(REGCLASS);
DROP FUNCTION strategic_recompute(TEXT, TEXT);
DROP FUNCTION strategic_touch(TEXT, TEXT);
DROP FUNCTION strategic_invalidate(TEXT, TEXT, TEXT, TEXT[]);
DROP TRIGGER strategic_request_end ON strategic_request;
DROP FUNCTION strategic_request_end();
DROP FUNCTION strategic_ask(TEXT, TEXT, TEXT, TEXT, TEXT[]);
DROP FUNCTION strategic_request_text(strategic_request);
DROP FUNCTION strategic_bot_name(TEXT);
DROP TABLE strategic_source;
DROP TABLE strategic_request;
