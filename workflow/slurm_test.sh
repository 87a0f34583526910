#!/usr/bin/env bash
# The grid under a real SLURM of one node, on loopback: make slurm-test (ten minutes or more).
#
# Needs Debian's packages: apt-get install slurm-wlm munge. Nothing has to be set up, and no other
# SLURM of this machine is touched: the daemons are this user's, below a temporary folder. Two
# devices stand for GPUs, so that the scheduler has some to give; the trainings run on the CPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH=$PATH:/usr/sbin OMP_NUM_THREADS=1 PYTHONPATH=$PWD
PY=${PY:-.venv/bin/python}
for command in sinfo slurmctld slurmd munged; do
    command -v $command >/dev/null || {
        echo "no $command here: apt-get install slurm-wlm munge (Debian, Ubuntu)" >&2
        exit 1
    }
done

D=$(mktemp -d)
host=$(hostname -s) me=$(id -un) daemons=() grid=
until_empty() { while [ -n "$(squeue -h)" ]; do sleep 0.5; done; } # the queue
finish() {
    code=$?
    set +e
    [ -n "$grid" ] && kill -9 "$grid" 2>/dev/null
    scancel --me 2>/dev/null && until_empty # else its steps outlive the daemons
    for ((i = ${#daemons[@]}; i--; )); do kill "${daemons[i]}" 2>/dev/null; done
    wait
    if [ $code = 0 ]; then rm -rf "$D"; else tail -n 15 "$D/grid.log"; echo "failed; logs: $D"; fi
}
trap finish EXIT
trap 'exit 130' INT TERM

# ---- one node, two GPUs ----
mkdir "$D"/{state,spool,bin,profile}
chmod 711 "$D"
cat >"$D/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$me
SlurmdUser=$me
AuthInfo=socket=$D/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool
SlurmctldPidFile=$D/slurmctld.pid
SlurmdPidFile=$D/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
KillWait=10
MinJobAge=3600
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=9 RealMemory=64000 Gres=gpu:2
PartitionName=main Nodes=$host Default=YES
CONF
printf "NodeName=$host Name=gpu File=/dev/%s\n" null zero >"$D/gres.conf"
export SLURM_CONF=$D/slurm.conf # a job's own srun is told again: Snakemake drops SLURM_* there
printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$SLURM_CONF" "$(command -v srun)" >"$D/bin/srun"
chmod +x "$D/bin/srun"
export PATH=$D/bin:$PATH
start() { "$@" >"$D/$1.log" 2>&1 & daemons+=($!); }
head -c 128 /dev/urandom >"$D/munge.key"
chmod 600 "$D/munge.key"
start munged -F --key-file="$D/munge.key" --socket="$D/munge.socket" --pid-file="$D/munged.pid" \
    --log-file="$D/munged.out" --seed-file="$D/munge.seed"
until [ -S "$D/munge.socket" ]; do sleep 0.1; done
start slurmctld -D -i
start slurmd -D
until [ "$(sinfo -h -o %t 2>/dev/null)" = idle ]; do sleep 0.2; done
echo "ok: $(sinfo --version) is up"

# ---- the grid ----
export DISCREPANCY_OUTPUTS="$D/über uns/a b" DISCREPANCY_CACHE="$D/my cache"
cp workflow/profiles/slurm/config.yaml "$D/profile"
echo 'slurm-init-seconds-before-status-checks: 5' >>"$D/profile/config.yaml"
run_grid=(env --default-signal=INT "$PY" -m workflow.grid --profile "$D/profile" --models tr_s ga_b
    --train-data raw --processes 2 --overrides '{steps: 300, validate_every: 20, samples: 4,
    dev_sentences: 20, mbr_samples: 0, refinements: [0, 4], accumulate: 2, batch_tokens: 256}')
begin() { "${run_grid[@]}" >>"$D/grid.log" 2>&1 & grid=$!; }
ends() { # CODE: waits for the grid
    code=0
    wait "$grid" 2>/dev/null || code=$?
    [ $code = "$1" ]
}
history="$DISCREPANCY_OUTPUTS/runs/toy/smoke/tr_s/raw/s1/history.csv"
rows() { wc -l 2>/dev/null <"$history" || echo 0; }
until_rows() { # NUMBER: waits for so many more validations
    local enough=$(($(rows) + $1))
    until [ "$(rows)" -ge $enough ]; do
        kill -0 "$grid" 2>/dev/null || exit 1
        sleep 0.5
    done
}
training() { squeue -h -t R -o '%i %k' | awk '/rule_train.*tr_s/ {print $1}'; }
kept() { cmp <(head -n 4 "$D/before.csv") <(head -n 4 "$history") && echo "ok: $1"; }

begin
until_rows 4
job=$(scontrol show job "$(training)")
grep -q 'TresPerNode=gres:gpu:2' <<<"$job" && grep -q 'NumCPUs=8 .*CPUs/Task=8' <<<"$job"
echo 'ok: a training asks for the GPUs and cores of its processes'
pgrep -f 'torch.distributed.run .*--nproc-per-node 2' >/dev/null
echo 'ok: two processes by torchrun'

cp "$history" "$D/before.csv"
scancel "$(training)"
until_rows 2
kept 'a cancelled training goes on in the next try'

kill -9 "$grid"
wait "$grid" 2>/dev/null || true
left=$(training)
begin
ends 1
tail -n 1 "$D/grid.log" | grep -q "scancel.* $left[ )]"
echo 'ok: started beside the jobs of a killed workflow, it names them and ends'
scancel --me
until_empty
begin
until_rows 2
kept 'started again after a kill, it goes on'

kill -INT "$grid"
ends 130
until_empty
echo 'ok: interrupted, it cancels its jobs'

begin
ends 0
kept 'the whole grid is done'
tail -n 4 "$D/grid.log"
speed=$(scontrol -o show job | grep 'rule_study_wildcards_08_speed')
grep -q 'OverSubscribe=NO' <<<"$speed" && grep -q 'NumCPUs=9 ' <<<"$speed"
echo 'ok: the study of speed had the node to itself'
ls "$DISCREPANCY_OUTPUTS"/tables/table{1,3,4}_toy_smoke*.csv "$DISCREPANCY_OUTPUTS/report.html"
echo 'ok: tables'
