# shellcheck shell=bash disable=SC2034 # scripts/services reads NAME_commands and the like by the name of the service
# ZooKeeper: one node. It answers `srvr` only when it serves; the open port comes earlier.

zookeeper_commands="java"
zookeeper_packages="zookeeper default-jre-headless"
zookeeper_signal=TERM
zookeeper_jar=/usr/share/java/zookeeper.jar

zookeeper_missing() { [[ ! -e $zookeeper_jar ]]; }
zookeeper_prepare() { :; }

zookeeper_start() {
  local home=$DIR/zookeeper user port
  user=$(unprivileged nobody)
  port=$(pick_port 5)
  printf '%s\n' "$port" >"$home/port"
  folder "$user" "$home/run" "$home/run/data"
  cat >"$home/run/zoo.cfg" <<CFG
tickTime=500
initLimit=10
syncLimit=5
dataDir=$home/run/data
clientPort=$port
clientPortAddress=127.0.0.1
admin.enableServer=false
4lw.commands.whitelist=*
maxClientCnxns=0
CFG
  cat >"$home/run/log4j.properties" <<'CFG'
log4j.rootLogger=WARN, CONSOLE
log4j.appender.CONSOLE=org.apache.log4j.ConsoleAppender
log4j.appender.CONSOLE.layout=org.apache.log4j.PatternLayout
log4j.appender.CONSOLE.layout.ConversionPattern=%d{ISO8601} %-5p %c: %m%n
CFG
  launch zookeeper "$user" "$(command -v java)" -Xmx128m -cp "$home/run:$zookeeper_jar" \
    org.apache.zookeeper.server.quorum.QuorumPeerMain "$home/run/zoo.cfg"
  await zookeeper 60 zookeeper_ready
  setting zookeeper OPEN_CRM_TEST_ZOOKEEPER_URL "zookeeper://127.0.0.1:$port"
}

zookeeper_ready() {
  local answer
  # shellcheck disable=SC2016 # the inner shell expands these
  answer=$(timeout 3 bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$1"; printf srvr >&3; cat <&3' _ "$(<"$DIR/zookeeper/port")")
  printf '%s\n' "$answer"
  [[ $answer == *"Mode: standalone"* ]]
}
