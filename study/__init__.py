"""The evidence: profiles and jobs, records, tables, statistics, figures, pages, commands."""
