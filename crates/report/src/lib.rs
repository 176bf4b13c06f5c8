//! peftbench-report
