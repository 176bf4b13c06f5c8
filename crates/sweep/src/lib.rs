//! peftbench-sweep
