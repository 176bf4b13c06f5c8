# Every recipe is one plain cargo line, so that everything works without just.

# Lists the recipes
default:
    @just --list --unsorted

# Runs a sweep (experiments/quick.toml if none is given) and reports on it
sweep *ARGS:
    cargo run --release -- sweep {{ARGS}}

# Shows what a sweep would run
plan *ARGS:
    cargo run --release -- plan {{ARGS}}

# Draws the report of a sweep again
report *ARGS:
    cargo run --release -- report {{ARGS}}

# Judges the papers' statements by the results
claims *ARGS:
    cargo run --release -- claims {{ARGS}}

# Runs a finished run again and compares it with its record, bit for bit
rerun RUN *ARGS:
    cargo run --release -- rerun {{RUN}} --check {{ARGS}}

# Runs all tests
test *ARGS:
    cargo test --release {{ARGS}}

# Runs the tests of the feature `hub`, against a hub on this machine
test-hub:
    cargo test --package peftbench-runner --features hub --lib -- hub published

# Checks format and lints
check: fmt clippy

# Checks the format
fmt:
    cargo fmt --all --check

# Checks the lints
clippy:
    cargo clippy --release --all-targets -- -D warnings

# Type-checks the CUDA build; needs neither a GPU nor the CUDA toolkit
check-cuda *ARGS:
    scripts/check-cuda {{ARGS}}

# Runs the benchmarks: kernels, training steps, loading (e.g. `just bench -- selective_scan`)
bench *ARGS:
    cargo bench --bench '*' {{ARGS}}

# Makes a base model that ships again, e.g. `just pretrain tiny-mamba`
pretrain NAME:
    cargo run --release -- pretrain experiments/bases/{{NAME}}.toml --out bases/{{NAME}}

# Runs a few steps of everything: seconds, apart from other results
smoke *ARGS:
    cargo run --release -- sweep experiments/smoke.toml --results target/smoke {{ARGS}}
