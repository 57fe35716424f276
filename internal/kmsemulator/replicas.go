package kmsemulator

import "time"

func replicateKey(c *call) (any, error) {
	var in struct {
		BypassPolicyLockoutSafetyCheck *bool
		Description                    *string
		KeyId                          *string
		Policy                         *string
		ReplicaRegion                  *string
		Tags                           sentTags
	}
	if err := c.params.decode(&in); err != nil {
		return nil, err
	}
	var ch checks
	ch.keyID("keyId", in.KeyId)
	if ch.required("replicaRegion", in.ReplicaRegion != nil) {
		ch.text("replicaRegion", in.ReplicaRegion, 1, 32)
	}
	ch.policyText(in.Policy)
	ch.text("description", in.Description, 0, maxDescription)
	ch.tags(in.Tags)
	if err := ch.err(); err != nil {
		return nil, err
	}
	k, err := c.plainKey(*in.KeyId)
	if err != nil {
		return nil, err
	}
	if err := c.allowed(k, "ReplicateKey"); err != nil {
		return nil, err
	}
	replica := &key{description: value(in.Description, ""), created: c.now}
	if replica.tags, err = in.Tags.read(); err != nil {
		return nil, err
	}
	if err := c.allowedNew("CreateKey", replica.tags); err != nil {
		return nil, err
	}
	arn := c.arn("kms", *in.ReplicaRegion, "key/"+k.ref.id)
	if replica.policy, err = c.newPolicy(in.Policy, in.BypassPolicyLockoutSafetyCheck, nil, arn); err != nil {
		return nil, err
	}
	if err := c.changeKey(k, func(w *world) error { return w.replicate(c.Emulator, k.ref, *in.ReplicaRegion, replica, c.now) }); err != nil {
		return nil, err
	}
	// The answer shows the replica as it begins, also where it is ready at once.
	shown := *replica
	shown.state = creating
	w := c.store.latest.Load()
	return struct {
		ReplicaKeyMetadata keyMetadata
		ReplicaPolicy      string
		ReplicaTags        []tag
	}{c.metadata(&shown, w.lines[k.ref.id], w), replica.policy.shown(c.Emulator), append([]tag{}, replica.tags...)}, nil
}

// replicate puts a replica of a primary key into another Region.
func (w *world) replicate(e *Emulator, primary keyRef, region string, replica *key, now time.Time) error {
	k := w.keys[primary]
	l := w.lines[primary.id]
	if !l.multiRegion || l.primary != primary.region {
		return unsupported("%s is not a multi-region primary key.", k.arn)
	}
	if err := usable(k); err != nil {
		return err
	}
	if k.state == updating {
		return stateError(k)
	}
	ref := keyRef{region, primary.id}
	arn := e.arn("kms", region, "key/"+primary.id)
	switch {
	case !isRegion(region):
		return invalid("Replica region %s is not a valid region.", region)
	case w.keys[ref] != nil:
		return refuse("AlreadyExistsException", "Key %s already exists", arn)
	}
	replica.ref, replica.arn = ref, arn
	replica.state, replica.ready = creating, now.Add(e.options.ReplicaDelay)
	w.keys[ref] = replica
	return nil
}
