//go:build !linux

package main

import (
	"errors"
	"syscall"
	"time"
)

func cpuTime(int) (time.Duration, error)  { return 0, errors.ErrUnsupported }
func residentBytes(int) (int, int, error) { return 0, 0, errors.ErrUnsupported }
func loadAverage() string                 { return "unknown" }
func cpuModel() string                    { return "unknown CPU" }
func childAttr() *syscall.SysProcAttr     { return nil }
