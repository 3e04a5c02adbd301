"""The batch on a real SLURM, whose jobs, controller and Snakemake are killed on the way."""
