"""What the doctor looks at, a file for each family of checks: a look at a machine, and a judgement of what it gave."""
