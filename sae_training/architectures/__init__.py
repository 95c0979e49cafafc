"""Dictionary architectures, one short file each."""
