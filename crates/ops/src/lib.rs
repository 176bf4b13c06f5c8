//! peftbench-ops
