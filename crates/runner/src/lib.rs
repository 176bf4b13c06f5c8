//! peftbench-runner
