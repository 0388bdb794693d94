#!/usr/bin/env bash
# What the other scripts share: where things are, and what a build needs of the machine. Read by them, never run.
#
# Nothing is installed that is there already, and nothing that the command at hand can do without.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
toolchain="$(sed -n 's/^channel = "\(.*\)"$/\1/p' "$root/rust-toolchain.toml")"
wasm_target=wasm32-wasip2
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}"

say() {
  printf '%s\n' "$@" >&2
}

fail() {
  say "$@"
  exit 1
}

# has_line BEGINNING TEXT: whether a line of the text begins so.
has_line() {
  [[ $'\n'"$2" == *$'\n'"$1"* ]]
}

# need_toolchain: the pinned Rust, and a `cargo` that is this Rust's.
need_toolchain() {
  local cargo_bin="${CARGO_HOME:-${HOME:-}/.cargo}/bin"
  # A shell that was open before rustup came doesn't know its folder yet.
  if [[ -x "$cargo_bin/rustup" ]]; then
    PATH="$cargo_bin:$PATH"
  fi
  if ! command -v rustup >/dev/null; then
    fail "rustup is missing; it brings the Rust that this repository is built with ($toolchain). Install it, then run this again:" \
      "  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain none"
  fi
  if ! has_line "$toolchain-" "$(rustup toolchain list)"; then
    say "Installing Rust $toolchain."
    rustup toolchain install "$toolchain" --profile minimal --no-self-update >&2
  fi
  # Wins over the toolchain file, which asks for everything that any step needs.
  export RUSTUP_TOOLCHAIN="$toolchain"
  if [[ "$(cargo --version 2>/dev/null)" != "cargo $toolchain "* ]]; then
    fail "The cargo that is found first, $(command -v cargo || echo none), is not rustup's." \
      "Put rustup's before it, then run this again:" \
      "  export PATH=\"$cargo_bin:\$PATH\""
  fi
}

# need_component NAME: a part of the pinned Rust.
need_component() {
  if ! has_line "$1-" "$(rustup component list --toolchain "$toolchain" --installed)"; then
    say "Installing $1 for Rust $toolchain."
    rustup component add --toolchain "$toolchain" "$1" >&2
  fi
}

# need_wasm_target: what policies are built for.
need_wasm_target() {
  if ! has_line "$wasm_target" "$(rustup target list --toolchain "$toolchain" --installed)"; then
    say "Installing the target $wasm_target for Rust $toolchain."
    rustup target add --toolchain "$toolchain" "$wasm_target" >&2
  fi
}

# need_c_compiler: Rust links with it, and builds the cryptography and SQLite.
need_c_compiler() {
  if builds_c; then
    return
  fi
  install_packages "a C compiler with the headers of the C library" gcc libc6-dev
  builds_c || fail "There still is no \`cc\` that builds a C program; see what it says to: echo 'int main(void) { return 0; }' | cc -x c -"
}

# install_packages WHAT PACKAGE...: Debian's packages, for WHAT is missing. Where it may not install, it says what to do.
install_packages() {
  local what="$1" packages=("${@:2}") as_root=()
  if [[ "$(id -u)" != 0 ]]; then
    as_root=(sudo -n)
  fi
  if ! command -v apt-get >/dev/null || ! "${as_root[@]}" true 2>/dev/null; then
    fail "Missing: $what. Install it, then run this again; on Debian and Ubuntu:" \
      "  sudo apt-get update && sudo apt-get install --no-install-recommends ${packages[*]}"
  fi
  say "Installing ${packages[*]}."
  # A list that can't be renewed may still be good enough; the installation tells.
  "${as_root[@]}" apt-get update -q >&2 || say "The package lists could not all be renewed."
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}" >&2
}

# Only a program that was built proves that headers and linker are there as well.
builds_c() {
  local folder status=0
  folder="$(mktemp -d)"
  printf '#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n' >"$folder/main.c"
  cc -o "$folder/main" "$folder/main.c" >/dev/null 2>&1 || status=1
  rm -r "$folder"
  return "$status"
}

# need_redis: the tests of shared limits start servers of their own.
need_redis() {
  if ! command -v redis-server >/dev/null || ! command -v redis-sentinel >/dev/null; then
    install_packages "redis-server and redis-sentinel" redis-server redis-sentinel
  fi
}

# need_cxx_compiler: libFuzzer is written in C++.
need_cxx_compiler() {
  need_c_compiler
  if builds_cxx; then
    return
  fi
  install_packages "a C++ compiler with its library" g++
  builds_cxx || fail "There still is no \`c++\` that builds a C++ program; see what it says to: echo 'int main() { return 0; }' | c++ -x c++ -"
}

builds_cxx() {
  local folder status=0
  folder="$(mktemp -d)"
  printf '#include <vector>\nint main() { return int(std::vector<int>().size()); }\n' >"$folder/main.cc"
  c++ -o "$folder/main" "$folder/main.cc" >/dev/null 2>&1 || status=1
  rm -r "$folder"
  return "$status"
}

# cargo_in FOLDER ARGUMENT...: cargo in an inner workspace, which builds into target/NAME.
cargo_in() {
  local folder="$1"
  shift
  (cd "$root/$folder" && CARGO_TARGET_DIR="$root/target/$(basename "$folder")" cargo "$@")
}
