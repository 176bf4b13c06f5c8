//! peftbench-results
