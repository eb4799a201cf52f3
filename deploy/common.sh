# shellcheck shell=sh
# What setup.sh and install.sh share; to be sourced. $name is the script's name in what it says.

say() { echo "$name: $*" >&2; }

apt_install() { # apt_install PURPOSE PACKAGE...: as root on Debian/Ubuntu, else what to type
  purpose=$1; shift
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "installing $* by apt ($purpose)"
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null 2>&1 ||
      { apt-get -qq update >/dev/null && DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends "$@" >/dev/null 2>&1; } ||
      { say "apt-get could not install $*"; return 1; }
  else
    say "$purpose needs $*: sudo apt-get install $*"
    return 1
  fi
}

find_python() { # set $python to one that can make a virtual environment
  # The system's Python comes first: Debian's BCC bindings (python3-bpfcc) belong to it.
  python=
  for candidate in /usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python=$candidate; break
    fi
  done
  if [ -z "$python" ]; then
    apt_install "Python 3.11 or newer" python3 python3-venv
    python=/usr/bin/python3
  fi
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    apt_install "a virtual environment" python3-venv
  fi
}

install_python_packages() { # install_python_packages ENVIRONMENT LOCK [EDITABLE-FLAG]
  say "installing $2 into $1"
  "$1/bin/python" -m pip install -qq --disable-pip-version-check --require-hashes -r "$2"
  "$1/bin/python" -m pip install -qq --disable-pip-version-check --no-deps ${3:-} .
}
