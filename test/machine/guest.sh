#!/bin/bash
# What is done on the machine, in two boots. run.sh reads what it says.
set -uo pipefail

unit=aws-encryption-provider
conf=/etc/$unit/config.yaml
state=/var/lib/machine-test
first=/run/kmsplugin/socket.sock
second=/run/kmsplugin/second.sock
group=2000

say() { echo "machine-test: $*"; }

# check runs a command for as long as it takes to succeed, up to a time that is many
# times what it needs on an emulated processor.
limit=120
check() {
	local what=$1 end=$((SECONDS + limit))
	shift
	until "$@" >/tmp/out 2>&1; do
		if [ $SECONDS -ge $end ]; then
			say "FAILED $what: $*"
			cat /tmp/out
			journalctl --quiet --no-pager --lines=60 --unit=$unit --unit=kubelet --unit=containerd-machine
			return 1
		fi
		sleep 1
	done
	say "ok $what"
}

# never demands that a command fails now.
never() {
	local what=$1
	shift
	if "$@" >/tmp/out 2>&1; then
		say "FAILED $what: $* succeeded"
		cat /tmp/out
	else
		say "ok $what"
	fi
}

serves() { $unit status --listen="$1" --timeout=30s; }
member() { setpriv --reuid=3000 --regid=3000 --groups=$group $unit status --listen="$1" --timeout=30s; }
mode() { [ "$(stat --format=%a "$1")" = "$2" ]; }
status_says() { systemctl show --property=StatusText $unit.service | grep -F -- "$1"; }
logged() { journalctl --quiet --no-pager --unit=$unit.service --since="@$began" | grep -F -- "$1"; }
active() { systemctl is-active $unit.service; }
started_again() { [ "$(systemctl show --property=NRestarts --value $unit.service)" -gt "$restarts" ]; }
gone() { [ ! -e "$1" ]; }

# configure writes the file, with a second provider where it is told a socket for it.
configure() {
	local key='{key: arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab, endpoint: "http://127.0.0.1:4566"}'
	{
		printf 'apiVersion: aws-encryption-provider.sigs.k8s.io/v1alpha1\nkind: ProviderConfiguration\n'
		printf 'outageGrace: %s\nhealth: {address: "127.0.0.1:8083"}\n' "$1"
		printf 'socket: {mode: "0660", group: "%s"}\n' $group
		printf 'providers:\n- {name: aws, listen: %s, keys: [%s]}\n' $first "$key"
		[ $# -lt 2 ] || printf -- '- {name: second, listen: %s, keys: [%s]}\n' "$2" "$key"
	} >$conf.new
	mv $conf.new $conf
}

drop_in() {
	mkdir -p "/etc/systemd/system/$unit.$1.d"
	printf '%s\n' "${@:3}" >"/etc/systemd/system/$unit.$1.d/$2.conf"
	systemctl daemon-reload
}

install_package() {
	check "the package is installed" dpkg --install /srv/before.deb
	never "nothing is started by that" active
	check "health is for this node alone" grep -q '^  address: 127.0.0.1:8083$' $conf
	configure 3m
	drop_in service 05-aws '[Service]' 'Environment=AWS_ACCESS_KEY_ID=dev AWS_SECRET_ACCESS_KEY=dev'
	systemctl enable --now $unit.socket $unit.service
	check "the service serves" serves $first
	check "its status line says so" status_says "provider aws: healthy"
}

socket_group() {
	groupadd --gid=$group kms-callers # systemd knows no group that the node does not
	check "the directory lets in whom the socket does" mode /run/kmsplugin 755
	chmod 0700 /run/kmsplugin # as units of before made it
	drop_in socket 10-configuration '[Socket]' SocketMode=0660 SocketGroup=$group DirectoryMode=0755
	systemctl restart $unit.socket $unit.service
	check "the service serves a socket for a group" serves $first
	check "systemd changes no directory" mode /run/kmsplugin 700
	never "the group does not reach it" member $first
	chmod 0755 /run/kmsplugin
	check "the group reaches it after chmod" member $first
}

second_provider() {
	configure 3m $second
	check "a reload names what a second socket lacks" status_says "configuration not reloaded, the running one goes on: KMS0602"
	check "the log says what to do" logged "SupplementaryGroups=$group and SystemCallFilter=@chown"
	check "the first is served" member $first
	systemctl restart $unit.service
	check "a start serves the first" member $first
	check "and names the second" status_says "its socket cannot be had (KMS0602)"
	drop_in service 10-configuration '[Service]' SupplementaryGroups=$group SystemCallFilter=@chown
	systemctl restart $unit.service
	check "with the group the second is served" member $second
	configure 3m
	check "a socket that is taken out is gone" gone $second
	configure 3m $second
	check "and one that is added is served, without a restart" member $second
}

reload() {
	began=$(date +%s)
	configure 4m $second
	check "a changed file is taken over" logged "configuration reloaded"
	echo 'no configuration' >$conf
	check "a broken one shows in the status line" status_says "configuration not reloaded, the running one goes on: $conf"
	check "what was served is served" serves $first
	configure 5m $second
	check "a mended one is taken over" status_says "provider aws: healthy"
}

unreadable() {
	printf '[default]\naws_access_key_id = dev\naws_secret_access_key = dev\n' >/etc/$unit/credentials
	chmod 0600 /etc/$unit/credentials
	chown 3000 /etc/$unit/credentials
	began=$(date +%s)
	drop_in service 20-file '[Service]' Environment= Environment=AWS_SHARED_CREDENTIALS_FILE=/etc/$unit/credentials
	systemctl restart $unit.service
	check "a file of another user is named" logged "/etc/$unit/credentials"
	check "with permission denied" logged "permission denied"
	chown 0 /etc/$unit/credentials
	check "and read without a restart when it may be" serves $first
}

watchdog() {
	restarts=$(systemctl show --property=NRestarts --value $unit.service)
	began=$(date +%s)
	kill -STOP "$(systemctl show --property=MainPID --value $unit.service)"
	check "the watchdog ends what is stopped" started_again
	check "and it serves again" serves $first
	say "a watchdog's end writes $(journalctl --quiet --no-pager --unit=$unit.service --since="@$began" | wc -l) lines"
}

upgrade() {
	local callers=() pid failed=0
	for _ in 1 2 3; do
		(
			while [ ! -e /tmp/enough ]; do serves $first >/tmp/out.$BASHPID 2>&1 || { cat /tmp/out.$BASHPID; exit 1; }; done
		) &
		callers+=($!)
	done
	sleep 5
	check "an upgrade leaves the file alone" dpkg --force-confold --install /srv/after.deb
	sleep 5
	touch /tmp/enough
	for pid in "${callers[@]}"; do wait "$pid" || failed=1; done
	[ $failed = 0 ] && say "ok callers of an upgrade notice nothing" || say "FAILED a caller of an upgrade failed"
	check "the configuration is still the own" grep -q $second $conf
	say "systemd-analyze security: $(systemd-analyze security --no-pager $unit.service | tail -n1)"
}

removal() {
	check "a removal works" dpkg --remove $unit
	check "the socket is gone" gone $first
	never "nothing runs" active
	check "the configuration stays" test -e $conf
	check "a purge works" dpkg --purge $unit
	check "what was known last is gone" gone /run/$unit
	check "drop-ins are their owner's" test -e /etc/systemd/system/$unit.service.d/10-configuration.conf
}

# shellcheck source=pods.sh
. "$(dirname "$0")/machine-test-pods"

mkdir -p $state
began=$(date +%s) restarts=0
check "the emulator serves" test -S /run/kms-emulator.sock
if [ ! -e $state/rebooted ]; then
	for part in install_package socket_group second_provider reload unreadable watchdog upgrade; do
		say "-- $part"
		$part
	done
	touch $state/rebooted
	say "-- reboot"
	systemctl reboot
	exit
fi
check "after a reboot the service serves" serves $first
check "and the second socket too" member $second
say "-- removal"
removal
pods
say done
systemctl poweroff
