# shellcheck shell=bash disable=SC2034 # scripts/services reads NAME_commands and the like by the name of the service
# Postfix: a real mail server with STARTTLS, SMTPS and log-in. All mail for test.example lands in one Maildir.
#
#   anybody@test.example        delivered; the recipient stands in the header X-Original-To
#   refused@test.example        550 5.1.1 at RCPT      deferred@test.example   450 4.2.0 at RCPT
#   full@test.example           552 5.2.2 at RCPT      policy@test.example     554 5.7.1 at RCPT
#   anybody@bounce.example      accepted, then bounced 5.1.1 to the sender
#   anybody@defer.example       accepted, tried for 20 s, then bounced to the sender

postfix_commands="postfix saslpasswd2 swaks"
postfix_packages="postfix sasl2-bin libsasl2-modules swaks libnet-ssleay-perl"
postfix_signal=TERM

postfix_missing() { ((EUID == 0)) && ! compgen -G '/usr/lib/*/sasl2/libsasldb.so*' >/dev/null; }

postfix_prepare() {
  if ((EUID != 0)); then
    fail "Postfix only starts as root. Run scripts/services as root, or set OPEN_CRM_TEST_SMTP_URL and its neighbours to a server of your own"
    return 1
  fi
}

postfix_start() {
  local home=$DIR/postfix etc=$DIR/postfix/etc smtp smtps plain
  smtp=$(pick_port 10)
  smtps=$(pick_port 11)
  plain=$(pick_port 12)
  printf '%s\n' "$smtp" >"$home/port"
  mkdir -p "$etc/sasl" "$home/spool" "$home/mail"
  folder postfix "$home/data"
  give_key root "$etc"
  local owner=${SUDO_UID:-65534} group=${SUDO_GID:-65534}
  mkdir -p "$home/mail/all/"{new,cur,tmp}
  chown -R "$owner:$group" "$home/mail"
  cat >"$etc/main.cf" <<CFG
compatibility_level = 3.6
queue_directory = $home/spool
data_directory = $home/data
mail_owner = postfix
setgid_group = postdrop
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
meta_directory = /etc/postfix
myhostname = mail.test.example
mydestination =
alias_maps =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.2/32
local_transport = error:no local delivery
virtual_mailbox_domains = test.example
virtual_mailbox_base = $home/mail
virtual_mailbox_maps = static:all/
virtual_minimum_uid = 1
virtual_uid_maps = static:$owner
virtual_gid_maps = static:$group
virtual_mailbox_limit = 0
smtpd_tls_cert_file = $etc/server.pem
smtpd_tls_key_file = $etc/server.key
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = cyrus
smtpd_sasl_path = smtpd
cyrus_sasl_config_path = $etc/sasl
smtpd_sasl_security_options = noanonymous
smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination
smtpd_recipient_restrictions = check_recipient_access texthash:$etc/recipients,
  permit_sasl_authenticated, reject_unauth_destination
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_message_rate_limit = 0
smtpd_peername_lookup = no
default_process_limit = 200
smtp_dns_support_level = disabled
smtp_host_lookup = native
transport_maps = texthash:$etc/transport
maximal_queue_lifetime = 20s
bounce_queue_lifetime = 20s
minimal_backoff_time = 2s
maximal_backoff_time = 3s
queue_run_delay = 2s
message_size_limit = 2000000
maillog_file = $home/mail.log
maillog_file_prefixes = $home
CFG
  cat >"$etc/recipients" <<'CFG'
refused@test.example 550 5.1.1 no such mailbox here
deferred@test.example 450 4.2.0 greylisted, try again later
full@test.example 552 5.2.2 mailbox full
policy@test.example 554 5.7.1 blocked by policy
CFG
  # Our own port without TLS plays the far server, so that refusals come after the mail was accepted.
  printf '%s\n' "bounce.example smtp:[127.0.0.1]:$plain" "defer.example smtp:[127.0.0.1]:$plain" >"$etc/transport"
  printf '%s\n' 'bounce.example 550 5.1.1 no such user at the far end' \
    'defer.example 451 4.4.1 the far end is busy' >"$etc/far-recipients"
  printf '%s\n' 'pwcheck_method: auxprop' 'auxprop_plugin: sasldb' "sasldb_path: $etc/sasldb2" \
    'mech_list: PLAIN LOGIN CRAM-MD5' >"$etc/sasl/smtpd.conf"
  postfix_services "$smtp" "$smtps" "$plain" "$etc" >"$etc/master.cf"
  printf 's3cret' | saslpasswd2 -p -c -u mail.test.example -f "$etc/sasldb2" crm
  chown postfix "$etc/sasldb2"
  chmod 600 "$etc/sasldb2"
  # Makes the folders of the queue with the owners Postfix insists on.
  MAIL_CONFIG=$etc postfix -c "$etc" check >"$home/install.log" 2>&1 || {
    tail -n 15 "$home/install.log" >&2
    fail "postfix check failed"
    return 1
  }
  launch postfix root /usr/lib/postfix/sbin/master -c "$etc" -d
  await postfix 40 postfix_ready
  local login='crm%40mail.test.example:s3cret'
  setting postfix OPEN_CRM_TEST_SMTP_URL "smtp://$login@localhost:$smtp"
  setting postfix OPEN_CRM_TEST_SMTPS_URL "smtps://$login@localhost:$smtps"
  setting postfix OPEN_CRM_TEST_SMTP_NO_TLS_URL "smtp://localhost:$plain"
  setting postfix OPEN_CRM_TEST_SMTP_CA "$DIR/tls/ca.pem"
  setting postfix OPEN_CRM_TEST_SMTP_MAILDIR "$home/mail/all"
}

postfix_services() {
  cat <<CFG
127.0.0.1:$1 inet n - n - - smtpd
127.0.0.1:$2 inet n - n - - smtpd
  -o smtpd_tls_wrappermode=yes
127.0.0.1:$3 inet n - n - - smtpd
  -o smtpd_tls_security_level=none
  -o smtpd_sasl_auth_enable=no
  -o myhostname=far.example
  -o { smtpd_relay_restrictions = check_recipient_access texthash:$4/far-recipients, reject_unauth_destination }
CFG
  cat <<'CFG'
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 2 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
CFG
}

# A verified STARTTLS, a log-in and an accepted recipient; no mail is sent.
postfix_ready() {
  swaks --server localhost:"$(<"$DIR/postfix/port")" --tls --tls-verify --tls-ca-path "$DIR/tls/ca.pem" \
    --auth PLAIN --auth-user crm@mail.test.example --auth-password s3cret --timeout 5 \
    --from probe@test.example --to probe@test.example --quit-after RCPT
}
