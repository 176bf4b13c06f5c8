//! peftbench-datasets
