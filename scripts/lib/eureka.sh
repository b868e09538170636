# shellcheck shell=bash disable=SC2034 # scripts/services reads NAME_commands and the like by the name of the service
# Public Eureka clients of two languages, against which the tests run our own server: PyPI py-eureka-client and npm
# eureka-js-client, each in a folder of its own. No server: it is only fetched. The Python packages are pinned by version
# and hash, the Node one by version.

eureka_commands="python3 node npm"
eureka_packages="nodejs npm python3 python3-pip"
eureka_signal=TERM
eureka_client=yes

eureka_python=0.13.3
eureka_node=4.5.0
eureka_cache=${XDG_CACHE_HOME:-$HOME/.cache}/open-crm/eureka-clients-$eureka_python-$eureka_node

eureka_verified() {
  [[ -e $eureka_cache/python/py_eureka_client/eureka_client.py && -e $eureka_cache/node/node_modules/eureka-js-client/package.json ]]
}

eureka_ready() { eureka_verified; }

eureka_prepare() {
  if [[ -d $eureka_cache ]]; then
    if eureka_verified; then return 0; fi
    say "services: $eureka_cache is damaged, fetching it again"
    rm -rf "$eureka_cache"
  fi
  local fetch=$eureka_cache.$$
  rm -rf "$fetch"
  mkdir -p "$fetch/node"
  say "services: fetching the Eureka clients py-eureka-client $eureka_python and eureka-js-client $eureka_node (15 MB, once)"
  cat >"$fetch/requirements.txt" <<PINS
py-eureka-client==$eureka_python --hash=sha256:ccfcdad3c6458c6ad4a15f2db3561389d018fcdeeb220ef3abfa60008d54c6bc
anyio==4.16.0 --hash=sha256:c66ae634e0b8228396b801741beb3294326d4b6102f7bba4041c0dfb58c29026
certifi==2026.10.18 --hash=sha256:73191c47aaa79da394e8fee2dbc2ec827432cab56311122c9e47abf79e390f62
dnspython==2.9.2 --hash=sha256:af15f7d385a6ae2fb35a796fde2138004c8c42c7389090e2addc83e3b3340fd8
h11==0.16.0 --hash=sha256:63cf8bbe7522de3bf65932fda1d9c2772064ffb3dae62d55932da54b31cb6c86
httpcore==1.0.9 --hash=sha256:2d400746a40668fc9dec9810239072b40b4484b640a8c38fd654a024c7a1bf55
httpx==0.28.1 --hash=sha256:d909fcccc110f8c7faf814ca82a9a4d816bc5a6dbfea25d6591d6985b8ba59ad
idna==3.20 --hash=sha256:ab7ae7122974553370f0bdb919e1a960b2cd1bc1ef0276416d896db81c14582c
ifaddr==0.2.0 --hash=sha256:085e0305cfe6f16ab12d72e2024030f5d52674afad6911bb1eee207177b8a748
typing_extensions==4.16.0 --hash=sha256:481caa481374e813c1b176ada14e97f1f67a4539ce9cfeb3f350d78d6370c2e8
PINS
  if ! (
    cd "$fetch"
    python3 -m pip install --quiet --no-deps --only-binary=:all: --require-hashes --target python -r requirements.txt
    cd node
    npm install --prefix . --no-audit --no-fund --ignore-scripts "eureka-js-client@$eureka_node"
  ) </dev/null >"$DIR/eureka/fetch.log" 2>&1; then
    tail -n 20 "$DIR/eureka/fetch.log" >&2
    rm -rf "$fetch"
    fail "the Eureka clients could not be fetched from PyPI and npm"
    return 1
  fi
  mv "$fetch" "$eureka_cache"
  eureka_verified
}

eureka_start() {
  setting eureka OPEN_CRM_TEST_EUREKA_PYTHON "$eureka_cache/python"
  setting eureka OPEN_CRM_TEST_EUREKA_NODE "$eureka_cache/node"
}
