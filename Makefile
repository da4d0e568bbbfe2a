.DEFAULT_GOAL := help
.PHONY: help demo test chaos deploys rollouts nights fuzz lint bench release

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## start Redis and a worker, run commands on it, show what comes back, stop it all
	@scripts/demo

test: ## every test this machine can run; the others are named as skipped
	@scripts/test

chaos: ## random faults on a real fleet: SEED=… (default: a fresh one) MINUTES=… (default 5)
	@SEED=$(SEED) MINUTES=$(MINUTES) PROFILES=$(PROFILES) BUG=$(BUG) scripts/chaos

deploys: ## a hundred deploys under load, half of them broken (make test does ten)
	@cargo build --workspace --all-targets --locked
	@cargo test --locked -p tests --test deploy -- --ignored --nocapture

rollouts: ## ctl killed a thousand times in rolling runs over twenty workers (make test does twenty)
	@cargo build --workspace --all-targets --locked
	@cargo test --locked -p tests --test rollouts -- --ignored --nocapture

nights: ## three ctl serve killed and frozen while two years of schedules pass: SEED=… YEARS=… (make test does short ones)
	@scripts/setup
	@scripts/chaos-worker
	@SEED=$(SEED) YEARS=$(YEARS) SHORT=$(SHORT) BUG=$(BUG) "$$(scripts/target-dir)/debug/nights"

fuzz: ## every decoder with random inputs, FUZZ_SECONDS=… each (default 20); needs nightly Rust and cargo-fuzz
	@FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz

lint: ## formatting, clippy, licences
	@scripts/lint

bench: ## the benchmarks
	@scripts/bench

release: ## static binaries for x86-64 Linux
	@scripts/static-release
