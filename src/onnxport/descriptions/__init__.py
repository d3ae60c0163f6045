"""Say how a checkpoint would be exported, without its weights: as data, as a table, as code to edit."""
