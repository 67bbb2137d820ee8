DROP TABLE strategic_rebuild;
