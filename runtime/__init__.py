"""No physics: errors, command lines, devices, processes, files, records, resuming."""
