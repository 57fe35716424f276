package awskms

import "time"

// LookAgain makes the next call look at the files of settings, as it would after
// some time.
func LookAgain(c *Client) {
	c.identity.mu.Lock()
	defer c.identity.mu.Unlock()
	c.identity.lookAt = time.Time{}
}

// LookedUp waits until no look-up is under way.
func LookedUp(c *Client) {
	c.identity.mu.Lock()
	underWay := c.identity.underWay
	c.identity.mu.Unlock()
	if underWay != nil {
		<-underWay
	}
}

// Hosts is how many hosts have connections, or had them and are remembered.
func Hosts(c *Connections) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pools)
}
