"""One attempt to obtain a credential: every row of it.

Rules of this file. The same sequence serves Registering, Renewing and Reprovisioning; which of them it
is, guards read from the lifecycle state. An event without a fitting row here goes to the lifecycle
table. A row whose action ends the attempt raises AttemptSucceeded or AttemptFailed, which the
lifecycle takes in the same step; AttemptBegun and AttemptAbandoned come from there. What was asked
before and is still unanswered when an attempt ends is forgotten, so its answer, should it come, is stale.
"""

from statemachine import attempt_actions as do
from statemachine import guards as when
from statemachine.events import (
    CredentialCommitFailed,
    CredentialCommitted,
    CredentialProofFailed,
    CredentialProven,
    CredentialRetired,
    CredentialRetireFailed,
    KeyStaged,
    KeyStageFailed,
    RegistrationAccepted,
    RegistrationAssigned,
    RegistrationFailed,
    RegistrationPending,
    Started,
)
from statemachine.rows import Row, deadline, on
from statemachine.states import Phase
from statemachine.work import AttemptAbandoned, AttemptBegun

IDLE = Phase.IDLE
STAGING = Phase.STAGING
SUBMITTING = Phase.SUBMITTING
POLLING = Phase.POLLING
PROVING = Phase.PROVING
COMMITTING = Phase.COMMITTING
RETIRING = Phase.RETIRING

EVERY = (IDLE, STAGING, SUBMITTING, POLLING, PROVING, COMMITTING, RETIRING)
ANSWERABLE = (SUBMITTING, POLLING)

ROWS: tuple[Row[Phase], ...] = (
    Row(
        source=(IDLE,),
        event=on(AttemptBegun),
        guard=when.assigned_by_configuration,
        dest=PROVING,
        action=do.propose_configured,
        why="The configuration is the assignment; its credential is shown to the hub, and DPS is not asked.",
        rule="design §2: Manual provisioning",
    ),
    Row(
        source=(IDLE,),
        event=on(AttemptBegun),
        guard=when.staged_key_fits,
        dest=SUBMITTING,
        action=do.submit_staged,
        why="A key from an earlier attempt waits and is used again.",
        rule="design §2: Attempt identity",
    ),
    Row(
        source=(IDLE,),
        event=on(AttemptBegun),
        dest=STAGING,
        action=do.stage,
        why="A new key is made beside the one in use, never over it.",
        rule="design §4: Stage",
    ),
    Row(
        source=EVERY,
        event=on(AttemptAbandoned),
        dest=IDLE,
        action=do.clear,
        why="What was asked is forgotten; late answers change nothing.",
        rule="design §2: Attempt identity",
    ),
    # --- stage ---------------------------------------------------------------------------------------
    Row(
        source=(STAGING,),
        event=on(KeyStaged),
        dest=SUBMITTING,
        action=do.keep_key_and_submit,
        why="The key is stored; its CSR goes to DPS.",
        rule="design §2: attempt sequence",
    ),
    Row(
        source=(STAGING,),
        event=on(KeyStageFailed),
        dest=IDLE,
        action=do.fail,
        why="Without a stored key nothing is asked of DPS.",
        rule="design §4: Stage",
    ),
    Row(
        source=(STAGING, SUBMITTING, POLLING),
        event=deadline("timeout"),
        dest=IDLE,
        action=do.fail_by_timeout,
        why="The overall deadline of one attempt has passed.",
        rule="design §8; every wait bounded",
    ),
    Row(
        source=(SUBMITTING,),
        event=on(Started),
        guard=when.repeat_beyond_budget,
        dest=IDLE,
        action=do.fail_by_budget,
        why="The registration would be sent once more, but the budget is used up.",
        rule="design §2: Budget, surviving restarts",
    ),
    Row(
        source=(SUBMITTING,),
        event=on(Started),
        guard=when.attempt_goes_on,
        action=do.count_repeat,
        why="The registration is sent once more: whether DPS took it before the restart nobody knows.",
        rule="design §2: Budget, surviving restarts",
    ),
    # --- submit --------------------------------------------------------------------------------------
    Row(
        source=(SUBMITTING,),
        event=on(RegistrationAccepted),
        dest=POLLING,
        action=do.keep_operation,
        why="DPS took the registration; its operation is asked for until it ends.",
        rule="DPS: Register Device, 202",
    ),
    Row(
        source=ANSWERABLE,
        event=on(RegistrationAssigned),
        guard=when.chain_acceptable,
        dest=PROVING,
        action=do.propose_and_prove,
        why="The old credential is given up only after the hub accepted the new one.",
        rule="design §4: Verify, Prove",
    ),
    Row(
        source=ANSWERABLE,
        event=on(RegistrationAssigned),
        guard=when.certless_accepted,
        dest=PROVING,
        action=do.propose_and_prove,
        why="The enrolment issues no certificate; the configured credential is shown to the hub instead.",
        rule="design §2: Certificate-less answers; §4: Prove",
    ),
    Row(
        source=ANSWERABLE,
        event=on(RegistrationAssigned),
        dest=IDLE,
        action=do.fail_by_judgement,
        why="What DPS issued cannot be used; what is in use was not touched.",
        rule="design §4: Verify; §2: Certificate-less answers",
    ),
    Row(
        source=ANSWERABLE,
        event=on(RegistrationFailed),
        guard=when.csr_refused,
        dest=SUBMITTING,
        action=do.submit_without_csr,
        why="The enrolment does not take a CSR; registration is repeated without one.",
        rule="design §2: Certificate-less answers",
    ),
    Row(
        source=(POLLING,),
        event=on(RegistrationFailed),
        guard=when.must_reregister,
        dest=SUBMITTING,
        action=do.submit_again,
        why="DPS no longer knows the operation; the same key and CSR are submitted again.",
        rule="design §2: Attempt identity",
    ),
    Row(
        source=(POLLING,),
        event=on(RegistrationFailed),
        guard=when.worth_repeating,
        action=do.poll_again,
        why="The answer was lost, not the operation; it is asked for again until the attempt's deadline.",
        rule="design §8: polls",
    ),
    Row(
        source=ANSWERABLE,
        event=on(RegistrationFailed),
        dest=IDLE,
        action=do.fail,
        why="DPS said no, or could not be asked.",
        rule="design §2: a failure's class",
    ),
    # --- poll ----------------------------------------------------------------------------------------
    Row(
        source=(POLLING,),
        event=deadline("phase"),
        action=do.poll,
        why="The next poll is due.",
        rule="design §8: polls",
    ),
    Row(
        source=(POLLING,),
        event=on(RegistrationPending),
        action=do.poll_later,
        why="DPS is still at it.",
        rule="design §8: polls; Retry-After wins",
    ),
    Row(
        source=(POLLING,),
        event=on(Started),
        guard=when.operation_too_old,
        dest=SUBMITTING,
        action=do.submit,
        why="The operation is older than 10 minutes; the same key and CSR are submitted again.",
        rule="design §2: Attempt identity",
    ),
    # --- prove ---------------------------------------------------------------------------------------
    Row(
        source=(PROVING,),
        event=on(CredentialProven),
        dest=COMMITTING,
        action=do.commit_proven,
        why="The hub accepts the new credential.",
        rule="design §4: Prove",
    ),
    Row(
        source=(PROVING,),
        event=on(CredentialProofFailed),
        guard=when.staged_key_gone,
        dest=IDLE,
        action=do.fail,
        why="The key of the new credential is gone from the store; another one is made.",
        rule="design §4: Stage, Prove",
    ),
    Row(
        source=(PROVING,),
        event=on(CredentialProofFailed),
        guard=when.candidate_ended,
        dest=IDLE,
        action=do.fail_to_prove_in_time,
        why="The new certificate ended before the hub accepted it; another one is asked for.",
        rule="design §4: Prove",
    ),
    Row(
        source=(PROVING,),
        event=on(CredentialProofFailed),
        guard=when.hub_may_be_late,
        action=do.act_again_later,
        why="Hubs refuse falsely soon after a new assignment; it is shown again.",
        rule="design §4: Prove",
    ),
    Row(
        source=(PROVING,),
        event=on(CredentialProofFailed),
        guard=when.refusal_to_be_checked,
        action=do.act_again_later,
        why="The token may be that of a wrong clock, and the answer tells the time; it is shown once more.",
        rule="design §2: Clock, Manual provisioning",
    ),
    Row(
        source=(PROVING,),
        event=on(CredentialProofFailed),
        guard=when.configuration_refused,
        dest=IDLE,
        action=do.fail_for_a_person,
        why="The hub refuses the configured credential; only somebody's hand can change that.",
        rule="design §2: Manual provisioning, Stuck",
    ),
    Row(
        source=(PROVING,),
        event=on(CredentialProofFailed),
        guard=when.candidate_refused,
        dest=IDLE,
        action=do.fail,
        why="The hub refuses the new credential; the one in use was not touched.",
        rule="design §4: Prove",
    ),
    Row(
        source=(PROVING,),
        event=on(CredentialProofFailed),
        guard=when.new_hub_silent,
        dest=IDLE,
        action=do.fail,
        why="The hub that DPS named cannot be reached for long; DPS is asked again, what is in use is kept.",
        rule="design §2: Hub moved; §4: Prove",
    ),
    Row(
        source=(PROVING,),
        event=on(CredentialProofFailed),
        guard=when.proof_can_wait,
        action=do.act_again_later,
        why="The hub cannot be asked, and the credential in use is good for a while.",
        rule="design §4: Prove",
    ),
    Row(
        source=(PROVING,),
        event=on(CredentialProofFailed),
        dest=COMMITTING,
        action=do.commit_unproven,
        why="The hub cannot be asked, and there is no credential that could wait; it is proven later.",
        rule="design §4: Prove",
    ),
    Row(
        source=(PROVING,),
        event=deadline("phase"),
        action=do.prove,
        why="The new credential is shown to the hub again.",
        rule="design §4: Prove",
    ),
    # --- commit and retire ---------------------------------------------------------------------------
    Row(
        source=(COMMITTING,),
        event=on(CredentialCommitted),
        dest=RETIRING,
        action=do.switch,
        why="Certificate, key, bundle and assignment are current together.",
        rule="design §4: Commit, Retire",
    ),
    Row(
        source=(COMMITTING,),
        event=on(CredentialCommitFailed),
        guard=when.commit_worth_repeating,
        action=do.act_again_later,
        why="The store could not flip; what was current still is, and it is tried again.",
        rule="design §4: Commit",
    ),
    Row(
        source=(COMMITTING,),
        event=on(CredentialCommitFailed),
        dest=IDLE,
        action=do.fail,
        why="The store refused the credential, or it is no longer wanted; what was current still is.",
        rule="design §4: Commit",
    ),
    Row(
        source=(COMMITTING,),
        event=deadline("phase"),
        guard=when.candidate_ended,
        dest=IDLE,
        action=do.fail_to_commit_in_time,
        why="The new certificate ended before the store could make it current; another one is asked for.",
        rule="design §4: Commit",
    ),
    Row(
        source=(COMMITTING,),
        event=deadline("phase"),
        action=do.commit,
        why="The store is asked again.",
        rule="design §4: Commit",
    ),
    Row(
        source=(RETIRING,),
        event=on(CredentialRetired),
        dest=IDLE,
        action=do.finish,
        why="What is superseded is gone, or goes when its certificate has ended.",
        rule="design §4: Retire",
    ),
    Row(
        source=(RETIRING,),
        event=on(CredentialRetireFailed),
        dest=IDLE,
        action=do.finish,
        why="What is superseded could not be removed now; it is collected later.",
        rule="design §4: Retire",
    ),
)
