# The daemons of a host, for the tests and for tests/try. Source it from bash.
#
#   daemons_begin DIR     everything below is kept in DIR: logs, pid files, state. DIR's path should be short.
#   host_start            a private host: virtlogd and libvirtd in a mount and UTS namespace of their own
#   on_host COMMAND…      runs a command there: qemu:///system is the private libvirtd
#   host_stop             destroys its domains, stops the daemons, drops the namespace
#   rabbit_start          a private RabbitMQ node on 127.0.0.1; exports TRANSPORT_URL
#   rabbit_stop           stops and wipes it
#   daemons_end           both stops; then complains about any process that is left
#   system_libvirt_start  libvirt at its usual place, if it doesn't run: what tests/try needs
#   virt_type             kvm where a guest really runs under KVM, else qemu
#
# A host's own libvirt is never touched by the tests. The namespace has its own /etc/libvirt, /var/lib/libvirt,
# /var/log/libvirt, /var/cache/libvirt and /run/libvirt; the programs inside use libvirt's usual paths and see a host
# of their own, guests of the real one can't be hit, and everything goes away with the namespace. The network is
# shared with the real host. qemu.conf turns off what a container or a machine without an init system can't give:
# security labels and cgroup controllers.
#
# Whatever is started here has a pid file in DIR/run; nothing is ever stopped by name.

DAEMONS_SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH=$PATH:/usr/sbin:/sbin

daemons_begin() {
  D=$(mkdir -p "$1" && cd "$1" && pwd)
  mkdir -p "$D/run" "$D/log" "$D/bin"
  chmod 711 "$D"
}

# PID: when it began, in clock ticks of this boot. A pid file may outlive its process, and its number name another one.
_born() { [ -r "/proc/$1/stat" ] && sed 's/.*) //' "/proc/$1/stat" | cut -d' ' -f20 - /proc/sys/kernel/random/boot_id; }
_is_daemon() { # NAME PID
  echo "$2" >"$D/run/$1.pid"
  _born "$2" >"$D/run/$1.born" || true # it has ended already
}
_alive() { [ -s "$D/run/$1.pid" ] && [ -s "$D/run/$1.born" ] && [ "$(_born "$(cat "$D/run/$1.pid")")" = "$(cat "$D/run/$1.born")" ]; }

# NAME COMMAND…: starts a daemon in a session of its own; repeated while it runs, does nothing.
_daemon() {
  local name=$1
  shift
  _alive "$name" && return 0
  setsid "$@" >>"$D/log/$name.log" 2>&1 </dev/null 9>&- &
  _is_daemon "$name" $!
  disown # bash has nothing to say of its end
}

# NAME [SIGNAL]: asks a daemon to stop, kills it after 10 s.
_stop() {
  local name=$1 signal=${2:-TERM} pid i
  _alive "$name" || { rm -f "$D/run/$name."{pid,born}; return 0; }
  pid=$(cat "$D/run/$name.pid")
  # A caller may run with `set -e`, and the process may have ended by itself.
  kill -"$signal" "$pid" 2>/dev/null || true
  for i in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  kill -KILL "$pid" 2>/dev/null || true
  rm -f "$D/run/$name."{pid,born}
}

# SECONDS COMMAND…: repeats the command until it succeeds. PATIENCE is how many times as long everything may take (1).
_until() {
  local end=$((SECONDS + $1 * ${PATIENCE:-1}))
  shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "daemons: gave up waiting for: $*" >&2; return 1; }
    sleep 0.1
  done
}

_qemu_conf() {
  cat <<'CONF'
user = "root"
group = "root"
dynamic_ownership = 1
remember_owner = 0
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "logd"
CONF
}

_libvirtd_conf() {
  cat <<'CONF'
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "0700"
max_clients = 200
log_level = 3
CONF
}

# --- a private host

host_start() {
  local h=$D/host display
  mkdir -p "$h"/{etc,lib,log,cache,run}
  _qemu_conf >"$h/etc/qemu.conf"
  # The network is the real host's: another libvirt there, looking for a free port at the same time, finds the same one.
  display=$((6000 + RANDOM % 250 * 100))
  printf 'remote_display_port_min = %d\nremote_display_port_max = %d\n' $display $((display + 99)) >>"$h/etc/qemu.conf"
  _libvirtd_conf >"$h/etc/libvirtd.conf"
  printf '127.0.0.1 localhost %s\n::1 localhost\n' "${HOST_NAME:-hypernova-test}" >"$h/hosts"
  echo "host_uuid = \"$(cat /proc/sys/kernel/random/uuid)\"" >>"$h/etc/libvirtd.conf"
  # libvirt's own permissions: QEMU reaches its sockets through these directories.
  chmod 755 "$h" "$h"/*
  if ! _alive anchor; then
    rm -f "$h/ready"
    mkdir -p /etc/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt /run/libvirt
    # The anchor holds the namespaces open; a slave mount tree still sees what the real host mounts later.
    _daemon anchor unshare --mount --uts --propagation slave bash -c '
      set -e
      h=$1
      hostname "$2"
      mount --bind "$h/etc" /etc/libvirt
      mount --bind "$h/lib" /var/lib/libvirt
      mount --bind "$h/log" /var/log/libvirt
      mount --bind "$h/cache" /var/cache/libvirt
      mount --bind "$h/run" /run/libvirt
      # The host finds its own name.
      [ ! -e /etc/hosts ] || mount --bind "$h/hosts" /etc/hosts
      touch "$h/ready"
      exec sleep infinity' anchor "$h" "${HOST_NAME:-hypernova-test}"
    _until 10 test -e "$h/ready" || { cat "$D/log/anchor.log" >&2; return 1; }
  fi
  _daemon virtlogd $(_enter) virtlogd --pid-file "$h/run/virtlogd.pid"
  _until 10 test -S "$h/run/virtlogd-sock" || return 1
  host_libvirtd_start
}

# Apart from host_start, so that a test can stop libvirtd alone (`_stop libvirtd`) and start it again.
host_libvirtd_start() {
  _daemon libvirtd $(_enter) libvirtd --pid-file "$D/host/run/libvirtd.pid"
  _until 20 on_host virsh -q -c qemu:///system version
}

_enter() { echo nsenter --target "$(cat "$D/run/anchor.pid")" --mount --uts --root --; }
# The working directory there is /.
on_host() { $(_enter) "$@"; }

host_stop() {
  local domain
  if _alive libvirtd; then
    for domain in $(on_host virsh -q -c qemu:///system list --name); do
      on_host virsh -q -c qemu:///system destroy "$domain" >/dev/null
    done
  fi
  _stop libvirtd
  _stop virtlogd
  _stop anchor KILL
  rmdir /run/libvirt 2>/dev/null
  return 0
}

# --- a private RabbitMQ node

_free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# Runs a RabbitMQ program with the node's environment. The node has its own epmd, cookie, ports and directories.
_rabbit() {
  local r=$D/rabbit
  (
    . "$r/ports"
    export HOME=$r ERL_EPMD_PORT=$epmd ERL_EPMD_ADDRESS=127.0.0.1 RABBITMQ_NODENAME=hypernova@localhost \
      RABBITMQ_DIST_PORT=$dist RABBITMQ_NODE_PORT=$amqp RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 \
      RABBITMQ_MNESIA_BASE=$r/mnesia RABBITMQ_LOG_BASE=$D/log RABBITMQ_ENABLED_PLUGINS_FILE=$r/plugins \
      RABBITMQ_CONFIG_FILE=$r/rabbitmq RABBITMQ_PID_FILE=$r/pid RABBITMQ_CONF_ENV_FILE=$r/none \
      RABBITMQ_ADVANCED_CONFIG_FILE=$r/none RABBITMQ_GENERATED_CONFIG_DIR=$r/generated \
      RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none'
    exec "$@"
  )
}

rabbit_start() {
  local r=$D/rabbit
  mkdir -p "$r"/{mnesia,generated}
  [ -s "$r/ports" ] || echo "epmd=$(_free_port) dist=$(_free_port) amqp=$(_free_port)" >"$r/ports"
  [ -s "$r/.erlang.cookie" ] || { head -c 12 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$r/.erlang.cookie"; chmod 400 "$r/.erlang.cookie"; }
  echo '[].' >"$r/plugins"
  printf 'loopback_users = none\nlog.file.level = warning\n' >"$r/rabbitmq.conf"
  . "$r/ports"
  _daemon epmd epmd -port $epmd -address 127.0.0.1
  _daemon rabbit bash -c '. "$1"; D=$2; _rabbit /usr/lib/rabbitmq/bin/rabbitmq-server' rabbit "$DAEMONS_SOURCE/daemons.sh" "$D"
  _until 60 bash -c "exec 3<>/dev/tcp/127.0.0.1/$amqp" || { tail -20 "$D/log/rabbit.log" >&2; return 1; }
  # The server's own pid: the wrapper that started it doesn't pass a signal on.
  _until 10 test -s "$r/pid"
  _is_daemon rabbit "$(cat "$r/pid")"
  export TRANSPORT_URL=rabbit://guest:guest@127.0.0.1:$amqp/
}

rabbit_control() { _rabbit /usr/lib/rabbitmq/bin/rabbitmqctl -n hypernova@localhost "$@"; }

# Stops the node and keeps what is durable; rabbit_start brings it back on the same port. Once a minute a node has a small
# Erlang look after epmd: on a busy machine it outlives the node, and would start an epmd of its own.
rabbit_halt() {
  _stop rabbit
  _until 20 _no_erlang || true
  rm -f "$D/rabbit/pid"
}
_no_erlang() { ! pgrep -f -- "-home $D/rabbit"; }

rabbit_stop() {
  rabbit_halt
  _stop epmd
  rm -rf "$D/rabbit"
}

daemons_end() {
  host_stop
  rabbit_stop
  local left
  left=$(pgrep -af -- "$D/" | grep -v "^$$ " || true)
  [ -z "$left" ] || { echo "daemons: still running: $left" >&2; return 1; }
}

# --- libvirt at its usual place

# Starts the system's libvirt when it doesn't answer. Under systemd that is systemd's work. Without it virtlogd and
# libvirtd are started by hand, and see the qemu.conf above in a mount namespace instead of /etc/libvirt/qemu.conf, so
# that no file of the machine changes. They are meant to stay: their pid files are in D/run.
system_libvirt_start() {
  virsh -q -c qemu:///system version >/dev/null 2>&1 && return 0
  if [ -d /run/systemd/system ]; then
    systemctl start virtlogd.socket libvirtd 2>/dev/null || systemctl start virtqemud.socket virtlogd.socket
    _until 20 virsh -q -c qemu:///system version
    return
  fi
  _qemu_conf >"$D/qemu.conf"
  _libvirtd_conf >"$D/libvirtd.conf"
  _daemon virtlogd virtlogd
  _until 10 test -S /run/libvirt/virtlogd-sock || return 1
  _daemon libvirtd unshare --mount --propagation slave bash -c \
    'touch /etc/libvirt/qemu.conf && mount --bind "$1/qemu.conf" /etc/libvirt/qemu.conf && exec libvirtd --config "$1/libvirtd.conf"' \
    libvirtd "$D"
  _until 20 virsh -q -c qemu:///system version
}

# kvm or qemu. A machine may have /dev/kvm and yet not run a guest with it: asks a guest. DIR is the guest image's.
virt_type() {
  local guest=$1
  if [ -w /dev/kvm ] && timeout 10 qemu-system-x86_64 -accel kvm -cpu host -m 128 -display none -serial stdio -no-reboot \
    -kernel "$guest/vmlinuz" -initrd "$guest/initrd" -append 'console=ttyS0 panic=-1' </dev/null 2>/dev/null |
    grep -q -m1 'HYPERNOVA-GUEST init'; then
    echo kvm
  else
    echo qemu
  fi
}
