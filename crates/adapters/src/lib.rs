//! peftbench-adapters
