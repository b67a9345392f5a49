"""Jobs: commands of gsync on a schedule (16-jobs)."""
